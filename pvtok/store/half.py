"""Latents as float16, the dtype of the store, or a clear refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import NonFiniteError, UsageError
from pvtok.store.codec import LITTLE_HALF, Half

_EXPONENT = 0x7C00
"""A float16 is NaN or infinite exactly when all these bits are set."""


def to_half(latents: NDArray[Any], row_shape: tuple[int, int, int], first: int) -> Half:
    """`latents` `[n, *row_shape]` of any float dtype as little-endian float16.

    Args:
        first: number of the first latent frame, for the error.

    Raises:
        NonFiniteError: a value is NaN, infinite or beyond float16 (65504).
        UsageError: another shape, or no floats.
    """
    latents = np.asarray(latents)
    if latents.shape[1:] != row_shape or latents.ndim != 4:
        raise UsageError(f"latents {latents.shape} do not fit a store of (n, *{row_shape})")
    if latents.dtype.kind != "f":
        raise UsageError(f"latents must be floats, not {latents.dtype}")
    with np.errstate(over="ignore"):
        half = latents.astype(LITTLE_HALF, copy=False)
    bad = first_non_finite(half)
    if bad is not None:
        value = float(latents[bad])
        raise NonFiniteError(
            f"latent frame {first + bad[0]} holds {value:g} at (channel, y, x) = {bad[1:]}",
            why="it is beyond float16, whose largest value is 65504 (bfloat16 reaches 3e38)"
            if np.isfinite(value)
            else "",
            fix="Check the model's weights, or encode with --fp32.",
        )
    return half


def first_non_finite(half: Half) -> tuple[int, ...] | None:
    """Where the first NaN or infinity is; None if there is none."""
    # On the bits: twice as fast as isfinite, which matters on every read.
    bits = half.view("<u2")
    bad = (bits & _EXPONENT) == _EXPONENT
    return tuple(int(n) for n in np.argwhere(bad)[0]) if bad.any() else None
