"""Who runs the scenes when there are several: this machine, Slurm or Ray."""
