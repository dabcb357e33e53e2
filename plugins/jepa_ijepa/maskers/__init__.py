"""I-JEPA's maskers: multi-block, the three it is compared with in Table 6 of the paper (2301.08243), and
`union`, for small grids.

All work on token grids of rank 1, 2 and 3, draw for the whole batch at once, and take every random
number from the generator they are given. `jepa_core.maskers.blocks` holds what they share.
"""

from jepa_ijepa.maskers.multiblock import Multiblock
from jepa_ijepa.maskers.simple import Block, Random, Rasterised
from jepa_ijepa.maskers.union import Union

__all__ = ["Block", "Multiblock", "Random", "Rasterised", "Union"]
