"""Measuring one training step, stage by stage and as a whole: `jepa bench step`."""
