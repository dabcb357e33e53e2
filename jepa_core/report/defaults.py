"""Defaults of `jepa report`."""

IMAGES = 2000
"""Images of each split whose features are shown."""
FULL_RUNS = 4
"""Runs up to which a comparison also has the sections of each run."""
