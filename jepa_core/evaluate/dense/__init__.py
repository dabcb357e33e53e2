"""Evaluations that read something off every patch: depth, and the class of each pixel.

What is read are maps among the samples' targets (fields of the kind `map`), registered with the pixels of the
first view. `reading` takes tokens and maps from batches, `depth` and `segmentation` are the solved heads,
`depth_bins` the trained head of DINOv2.
"""
