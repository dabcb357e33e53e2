"""Parts of encoders and predictors: attention over ragged sets, positions, packing, timm's ViTs."""
