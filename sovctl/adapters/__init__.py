"""Every line that touches the outside: processes, Slurm, NVML, the kernel log, files."""
