"""Judges images, mounts and environments of isolated steps. Pure: values in, values out."""
