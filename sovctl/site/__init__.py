"""Judges an installation: what of Slurm and of a machine fits sovctl, and what an install writes. Pure."""
