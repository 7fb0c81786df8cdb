"""sbatch options, the batch script sovctl writes, container options. Pure."""
