"""The account of every interruption: what failed, how long each stage took, what was lost. Pure."""
