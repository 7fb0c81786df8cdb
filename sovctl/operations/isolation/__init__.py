"""Images and isolated steps: load, run, measure, prove."""
