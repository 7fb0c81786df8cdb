"""Thin typer commands; wiring.py is the only place that picks adapters."""
