"""Training on rows that are tokenised here, with TRL's trainer; a death costs a few steps."""
