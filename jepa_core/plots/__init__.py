"""Drawings: sheets of small images, masks over images, curves."""
