"""One file per verb: gets ports as arguments, calls pure code, performs the effect."""
