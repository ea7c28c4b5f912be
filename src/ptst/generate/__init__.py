"""Generation: completions for a list of prompts, in batches that can be resumed."""
