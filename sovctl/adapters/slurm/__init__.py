"""Slurm: its commands, pyslurm, its accounting, its files, its steps."""
