"""Every kernel against its reference on a device: quick enough to run before trusting it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvtok.kernels import (
    fold_upsample_weight,
    halo_conv,
    halo_down,
    halo_norm,
    halo_pixels,
    halo_shortcut,
    halo_up,
)
from pvtok.kernels.halo import pack_channels, pack_weight, to_halo

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference, of the largest value: a few roundings of each type."""


@dataclass(frozen=True)
class Finding:
    """One operation at one size."""

    what: str
    error: float
    """Largest difference to the reference, relative to its largest value."""
    ok: bool


def check_kernels(
    device: torch.device, dtype: torch.dtype, *, channels: int = 64, size: int = 12
) -> Iterator[Finding]:
    """Run every operation as a stream's first step and as a later one.

    Args:
        channels: of the activations; a multiple of 16.
        size: height; the width is one more pair.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    C, H, W, T = channels, size, size + 2, 5
    args: tuple[Any, ...]
    gain = pack_channels(torch.rand(C, generator=generator) + 0.5).to(device)
    bias = pack_channels(torch.randn(C, generator=generator)).to(device)
    eps = 1e-6

    def laid(front: int, first: bool, frames: int = T, h: int = H, w: int = W) -> Tensor:
        past = None if first else to_halo(random(1, front, h, w, C))
        return to_halo(random(1, frames, h, w, C), past, front)

    def filters(*taps: int) -> Tensor:
        fan_in = C * taps[0] * taps[1] * taps[2]
        return pack_weight(random(C, C, *taps) / fan_in**0.5)

    for first in (True, False):
        step = "first" if first else "later"
        past = None if first else to_halo(random(1, 2, H, W, C))
        for taps in ((3, 3, 3), (1, 3, 3), (1, 1, 1), (2, 3, 3)):
            front = taps[0] - 1
            conv = (laid(front, first), filters(*taps), bias, laid(0, True), gain, past, front, 0)
            args = (*conv, taps[0], taps[1], first, 2, 2, True, eps, C, False)
            yield _compare(f"conv {taps} {step}", halo_conv.conv, halo_conv.reference, args, dtype)
        half = None if first else to_halo(random(1, 2, H // 2, W // 2, C))
        for kt, st, averaged in ((3, 2, 8), (1, 1, 4)):
            front = 0 if kt == 1 else 2 if first else 1
            frames = T if st == 1 or first else T - 1
            what = f"down {'time' if st == 2 else 'space'} {step}"
            x = laid(front, first, frames)
            args = (x, C, front, st, averaged, first)
            short = halo_shortcut.shortcut, halo_shortcut.reference
            yield _compare(f"shortcut of {what}", *short, args, dtype)
            down = (x, filters(kt, 3, 3), bias, short[0](*args), gain, half, front, kt, st)
            args = (*down, first, 2, 2, True, eps, C, False)
            yield _compare(what, halo_down.down, halo_down.reference, args, dtype)
        twice = None if first else to_halo(random(1, 2, 2 * H, 2 * W, C))
        for factor in (2, 1):
            front = factor - 1
            plain = random(C, C, 3 if factor == 2 else 1, 3, 3) / (9 * C * factor) ** 0.5
            weight = halo_up.pack_folded(fold_upsample_weight(plain), 4 * factor)
            up = (laid(front, first), weight, bias, gain, twice, front, factor, 4 * factor)
            args = (*up, first, 2, 2, True, eps, C, False)
            what = f"up {'time' if factor == 2 else 'space'} {step}"
            yield _compare(what, halo_up.up, halo_up.reference, args, dtype)
        args = (laid(1, True), gain, past, 1, 2, 2, eps, C)
        yield _compare(f"norm {step}", halo_norm.norm, halo_norm.reference, args, dtype)
    pixels = torch.randint(0, 256, (1, T, 30, 45, 3), generator=generator, dtype=torch.uint8)
    for patch in (1, 2, 4):
        args = (pixels.to(device), None, patch, 16, 2, 2, dtype)
        into = halo_pixels.pixels_in, halo_pixels.reference_in
        yield _compare(f"pixels in, patch {patch}", *into, args, dtype)
        side = to_halo(random(1, T, 4, 6, 3 * patch * patch))
        args = (side, random(1, 3, T, 4 * patch, 6 * patch), 0, patch)
        out = halo_pixels.pixels_out, halo_pixels.reference_out
        yield _compare(f"pixels out, patch {patch}", *out, args, dtype)


def _compare(
    what: str,
    operation: Callable[..., Any],
    reference: Callable[..., Any],
    args: tuple[Any, ...],
    dtype: torch.dtype,
) -> Finding:
    with torch.backends.cudnn.flags(allow_tf32=False):
        got, want = operation(*args), reference(*args)
    pairs = [(got, want)] if isinstance(got, Tensor) else list(zip(got, want, strict=True))
    errors = [
        float((g.float() - w.float()).abs().max() / w.float().abs().max().clamp(min=1e-6))
        for g, w in pairs
        if w.numel()
    ]
    worst = max(errors)
    return Finding(what, worst, all(e <= TOLERANCE[dtype] for e in errors))  # NaN is not ok
