"""The PCFG world of "What Makes and Breaks Safety Fine-tuning" (arXiv 2407.10264), made anew.

A model of letters and nothing else: see docs/pcfg.md, and `python -m tools.pcfg --help`.
"""
