"""Running a grid from the command line: on this machine, or submitted to SLURM."""
