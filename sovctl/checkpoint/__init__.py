"""One file per checkpoint format, and the rule for what is complete."""
