"""SLURM: submit a sweep's jobs and return, run them where they end up, tell and cancel.

`settings` is what a user says of the cluster, `cluster` asks SLURM, `ledger` remembers what was
submitted, `submit` decides what to submit, `task` is what a job runs.
"""
