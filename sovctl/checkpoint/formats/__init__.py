"""One file per on-disk format: which names are its checkpoints, and what must be there for one to be whole."""
