"""Labels of counting and of distance, as VTAB defines them (Zhai et al. 2019, arXiv 1910.04867).

One code for the scenes that are rendered here, for CLEVR and for KITTI.

    count              number of objects, 3 to 10                                                  8 classes
    distance           least depth of an object's centre along the camera's axis                   6 classes
    vehicle distance   least z of a car, a van or a truck; a class of its own where there is none  4 classes

Bins are closed on the right: a depth of exactly 8 is of the first class.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from jepa_core.errors import UserError

COUNTS = range(3, 11)
COUNT_CLASSES = tuple(f"{count} objects" for count in COUNTS)

DISTANCE_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
DISTANCE_CLASSES = ("to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "beyond 10")

VEHICLES = ("Car", "Van", "Truck")
VEHICLE_EDGES = (-100.0, 8.0, 20.0, 999.0)
"""Metres."""
VEHICLE_CLASSES = ("to 8 m", "8 to 20 m", "beyond 20 m", "no vehicle")


def count_class(count: int, where: str = "the scene") -> int:
    """0 to 7 for 3 to 10 objects. Raises UserError, which begins with `where`, for any other number."""
    if count not in COUNTS:
        raise UserError(f"{where} has {count} objects; the classes of the task 'count' are 3 to 10 objects")
    return count - COUNTS[0]


def distance_class(distance: float, where: str = "the scene") -> int:
    """0 to 5 for a depth. Raises UserError, which begins with `where`, for one that is in no bin."""
    return _bin(distance, DISTANCE_EDGES, where, "its nearest object at a depth of", "distance")


def vehicle_class(depths: Sequence[float], where: str = "the scene") -> int:
    """0 to 2 for the nearest of the vehicles at these z in metres, 3 where there is none.

    As in VTAB, a vehicle beyond 999 m counts as none. Raises UserError, which begins with `where`, for one at
    -100 m or before.
    """
    nearest = min(depths, default=math.inf)
    if nearest > VEHICLE_EDGES[-1]:
        return len(VEHICLE_CLASSES) - 1
    return _bin(nearest, VEHICLE_EDGES, where, "its nearest vehicle at z =", "vehicle distance")


def _bin(value: float, edges: Sequence[float], where: str, what: str, task: str) -> int:
    if not edges[0] < value <= edges[-1]:
        raise UserError(
            f"{where} has {what} {value:g}; the classes of the task {task!r} are above {edges[0]:g}, "
            f"up to {edges[-1]:g}"
        )
    return bisect_left(edges, value) - 1
