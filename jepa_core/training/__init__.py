"""One optimizer step: forward, backward, clip, optimizer, target update; plain or in a CUDA graph."""
