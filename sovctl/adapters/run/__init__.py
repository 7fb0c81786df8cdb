"""The files, processes and signals of a run."""
