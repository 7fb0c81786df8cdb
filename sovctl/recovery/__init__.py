"""Judges a run: what happened -> blame -> decision. Pure."""
