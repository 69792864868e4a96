"""Everything that training draws is a function of the seed and of what it is drawn for.

No generator outlives its use and no state is carried from step to step. So a run that was resumed,
or that is spread over another number of processes, draws the same numbers.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A generator for the one thing that `key` names, such as `(seed, "sample", 17)`."""
    return np.random.default_rng(_hashed(seed, key))


def torch_generator(seed: int, *key: int | str) -> torch.Generator:
    """As `numpy_generator`, for torch: on the CPU, because each device draws other numbers."""
    return torch.Generator().manual_seed(_hashed(seed, key) >> 65)


def _hashed(seed: int, key: tuple[int | str, ...]) -> int:
    """128 bits that are the same on every machine and in every process, unlike `hash`.

    JSON keeps 1 and "1", and ("a", "b") and ("ab",), apart.
    """
    text = json.dumps([seed, *key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
