"""Judges a node: samples -> findings -> verdict -> drain decision. Pure."""
