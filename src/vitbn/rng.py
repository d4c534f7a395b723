"""Randomness as a function: every draw comes from a generator keyed by what the draw is for.

`generator(seed, "augment", epoch)` gives the same numbers in a resumed run, on another device or beside
other runs, because nothing else ever draws from it. Draws are made on the CPU and then moved.
"""

import hashlib

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """63-bit integer that depends on every part and on nothing else (SHA-256, so stable across versions)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """CPU generator for one purpose, e.g. `generator(seed, "order", epoch)`."""
    return torch.Generator().manual_seed(key(*parts))


def order(seed: int, epoch: int, count: int) -> Tensor:
    """Permutation of `count` sample indices for one epoch, int64 (count,)."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
