"""A rehearsal of everything at paper scale: the real code, with tiny models and a few rows.

Nothing is downloaded and nothing is paid for. A Hugging Face cache is filled with random models of
the real architectures and with made-up rows of the real schemas, under the real names and
revisions; an OpenAI-compatible server stands in for the APIs. A copy of the checkout, in which only
the APIs' addresses and the number of rows that a defence draws are changed, then runs every sweep,
and every YAML of `conf/` that no sweep uses, down to their reports. Of sweeps with many
fine-tunings it is one template at training and one at test time.
"""
