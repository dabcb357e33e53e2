"""What `jepa report` does unless somebody asks for something else."""

IMAGES = 2000
"""Images of each split that are looked at."""
