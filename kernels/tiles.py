"""Tile choices."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows, output channels and input channels of a program's step; warps; pipeline stages."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


MAX_NORMED = 256
"""Channels of a row that one tile can hold: a norm over more is a kernel of its own."""


def norm_fits(channels: int) -> bool:
    """Whether a convolution with so many outputs can norm them on its way out."""
    return channels <= MAX_NORMED


def tile_for(op: str, x: Tensor, C: int, O: int, time_taps: int, space_taps: int, *, normed: bool) -> Tile:
    n = 16
    while n < O:
        n *= 2
    k = 16
    while C % (2 * k) == 0:
        k *= 2
    return Tile(1024, n, k, 4, 2)
