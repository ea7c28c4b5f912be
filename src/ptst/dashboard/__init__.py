"""`ptst dashboard`: a W&B workspace and a W&B report of a sweep, defined here and kept up to date there."""
