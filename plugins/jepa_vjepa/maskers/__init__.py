"""V-JEPA's maskers: blocks in space and time as pairs of sets, tubes, and the future from the past.

All take every random number from the generator they are given.
"""

from jepa_vjepa.maskers.multiblock3d import BlockPair, Multiblock3d
from jepa_vjepa.maskers.times import Causal, Tube

__all__ = ["BlockPair", "Causal", "Multiblock3d", "Tube"]
