"""`ptst dashboard`: the W&B workspace and the W&B report of a sweep, kept up to date."""
