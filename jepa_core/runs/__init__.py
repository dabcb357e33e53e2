"""A run and its folder: starting, resuming, checkpoints, metrics, events."""
