"""What does fine-tuning do to the safety of an aligned chat model, and how much do templates decide?

The story of one cell of the grid is in :mod:`ptst.cell`; start reading there.
"""
