"""Keeping the allocator from handing memory back between steps, on a CPU with glibc.

glibc gives large blocks back to the system when they are freed, so each step faults the same pages in
again. `jepa_core.train` and `training_step` ask glibc to keep them. Nothing is done on import, and nothing
elsewhere than on Linux with glibc.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names and numbers of malloc.h


def keep_freed_blocks() -> bool:
    """Tells glibc to keep freed blocks for reuse; true where it could be told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in options)
