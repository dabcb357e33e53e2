"""Optimizers that a recipe names in `[optimizer]`: torch's own, and timm's by the pattern `timm_*`."""
