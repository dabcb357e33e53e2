"""Randomness that depends on (seed, rank, step, purpose) and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def step_generator(seed: int, rank: int, step: int, purpose: str) -> torch.Generator:
    """A fresh CPU generator for one purpose (`"masks"`, `"transform"`, `"order"`) at one step.

    The seed is a hash, so that neighbouring steps, ranks and seeds have nothing in common, and a run
    that resumes, or has another number of workers, draws the same. (torch uses 32 bits of it.)
    """
    text = f"{seed}/{rank}/{step}/{purpose}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number >> 1)
