"""One training step under the magnifying glass: `jepa bench step`."""
