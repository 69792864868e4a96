"""Inputs for the kernels in halo layout, and the comparisons that all their tests make.

Where there is a GPU everything runs on it, elsewhere in Triton's interpreter, whose bf16 products
are wrong: so bf16 is for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pvtok.kernels import fold_upsample_weight
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_up import pack_folded
from pvtok.kernels.tiles import Tile

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]

TILES = [Tile(m, n, k, 4, 2) for m, n, k in ((16, 16, 16), (32, 32, 16), (64, 16, 16))]
"""Small ones, so that a few frames take several and some lie across frames and batch items."""

EPS = 1e-6
Named = dict[str, Any]
"""An operation's arguments by name."""


class Inputs:
    """A source of random inputs of one dtype."""

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(DEVICE, self.dtype)

    def gain(self, channels: int) -> Tensor:
        return (torch.rand(channels, generator=self.generator) + 0.5).to(DEVICE)

    def bias(self, channels: int) -> Tensor:
        return torch.randn(channels, generator=self.generator).to(DEVICE)

    def filters(self, O: int, I: int, *taps: int) -> Tensor:
        """Of such a size that outputs are of the inputs'."""
        fan_in = I * taps[0] * taps[1] * taps[2]
        return self.normal(O, I, *taps) / fan_in**0.5

    def halo(self, *shape: int, front: int = 0, zero_past: bool = True) -> Tensor:
        """`[B, T, H, W, c]` laid out after `front` more frames."""
        B, _, H, W, c = shape
        past = None if zero_past or not front else to_halo(self.normal(B, front, H, W, c))
        return to_halo(self.normal(*shape), past, front)

    def ends(
        self, shape: tuple[int, int, int, int, int], front: int, keep: int, past: bool, norm: bool
    ) -> Named:
        """The arguments about how an operation ends, for a result `[B, T, H, W, O]`."""
        B, _, H, W, O = shape
        return {
            "past": self.halo(B, front, H, W, O) if past and front else None,
            "gain": pack_channels(self.gain(O)) if norm else None,
            "front": front,
            "keep": keep,
            "eps": EPS,
            "channels": O,
        }

    def conv(
        self,
        shape: tuple[int, int, int, int, int] = (1, 2, 3, 4, 16),
        O: int = 16,
        taps: tuple[int, int] = (3, 3),
        *,
        first: bool = False,
        x_more: int = 0,
        front: int = 0,
        keep: int = 0,
        past: bool = False,
        norm: bool = False,
        raw: bool = False,
        residual_front: int | None = None,
    ) -> Named:
        """For `halo_conv`; the input has `x_more` frames of past more than the filter sees."""
        B, T, H, W, C = shape
        kt, ks = taps
        x_front = kt - 1 + x_more
        result = (B, T, H, W, O)
        with_residual = residual_front is not None
        return self.ends(result, front, keep, past, norm) | {
            "x": self.halo(*shape, front=x_front, zero_past=first),
            "weight": pack_weight(self.filters(O, C, kt, ks, ks)),
            "bias": pack_channels(self.bias(O)),
            "residual": self.halo(*result, front=residual_front or 0, zero_past=False)
            if with_residual
            else None,
            "x_front": x_front,
            "residual_front": residual_front or 0,
            "time_taps": kt,
            "space_taps": ks,
            "first": first,
            "raw": raw,
            "tf32": False,
        }

    def down(
        self,
        shape: tuple[int, int, int, int, int] = (1, 2, 4, 6, 16),
        O: int = 16,
        time: bool = True,
        *,
        first: bool = False,
        front: int = 0,
        keep: int = 0,
        past: bool = False,
        norm: bool = False,
        raw: bool = False,
        residual: bool = False,
    ) -> Named:
        """For `halo_down`; `shape` is the result's, so of half the input's height and width."""
        B, T, H, W, C = shape
        kt, st = (3, 2) if time else (1, 1)
        x_front = 0 if not time else 2 if first else 1
        frames = st * T - (st - 1) * first
        result = (B, T, H, W, O)
        return self.ends(result, front, keep, past, norm) | {
            "x": self.halo(B, frames, 2 * H, 2 * W, C, front=x_front, zero_past=first),
            "weight": pack_weight(self.filters(O, C, kt, 3, 3)),
            "bias": pack_channels(self.bias(O)),
            "residual": self.halo(*result) if residual else None,
            "x_front": x_front,
            "time_taps": kt,
            "time_stride": st,
            "first": first,
            "raw": raw,
            "tf32": False,
        }

    def up(
        self,
        shape: tuple[int, int, int, int, int] = (1, 2, 3, 2, 16),
        O: int = 16,
        time: bool = True,
        *,
        first: bool = False,
        shortcut: bool = False,
        front: int = 0,
        keep: int = 0,
        past: bool = False,
        norm: bool = False,
        raw: bool = False,
    ) -> Named:
        """For `halo_up`; `shape` is the input's. The shortcut repeats each channel a whole number
        of times."""
        B, T, H, W, C = shape
        factor = 2 if time else 1
        assert not shortcut or O * 4 * factor % C == 0
        folded = fold_upsample_weight(self.filters(O, C, 3 if time else 1, 3, 3).float())
        result = (B, factor * T - (factor - 1) * first, 2 * H, 2 * W, O)
        return self.ends(result, front, keep, past, norm) | {
            "x": self.halo(*shape, front=factor - 1, zero_past=first),
            "weight": pack_folded(folded.to(self.dtype), 4 * factor),
            "bias": pack_channels(self.bias(O)),
            "x_front": factor - 1,
            "time_factor": factor,
            "repeats": O * 4 * factor // C if shortcut else 0,
            "first": first,
            "raw": raw,
            "tf32": False,
        }

    def norm(
        self,
        shape: tuple[int, int, int, int, int] = (1, 2, 3, 4, 16),
        *,
        x_front: int = 0,
        front: int = 0,
        keep: int = 0,
        past: bool = False,
    ) -> Named:
        """For `halo_norm`."""
        ends = self.ends(shape, front, keep, past, True)
        x = self.halo(*shape, front=x_front, zero_past=False)
        return ends | {"x": x, "x_front": x_front}


def on_cpu(named: Named) -> Named:
    """For a reference that no GPU library rounds otherwise."""
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in named.items()}


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New memory holds NaN: what a kernel leaves unwritten is noticed."""
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(torch.empty(8, device=DEVICE).isnan().all())
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype | None = None) -> None:
    """Equal but for roundings.

    A 16-bit result may be rounded up to three times (sum, norm, SiLU), the last magnified by SiLU's
    slope: 8 units. In fp32 up to 1300 products of about unit size are summed in another order.
    """
    eps = torch.finfo(dtype or got.dtype).eps
    tolerance = 1e-5 if eps < 1e-6 else 8 * eps
    torch.testing.assert_close(
        got.detach().double().cpu(), want.detach().double().cpu(), rtol=tolerance, atol=tolerance
    )


def check(
    launch: Callable[..., Any], reference: Callable[..., Any], named: Named, **tile: Tile | None
) -> tuple[Tensor, ...]:
    """Run a kernel into poisoned memory: equal to its reference, and laid out as promised."""
    with poisoned_memory():
        got = launch(**named, **tile)
    want = reference(**on_cpu(named))
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        assert_near(g, w)
    assert_laid_out(got, named)
    return tuple(got)


def assert_laid_out(results: tuple[Tensor, ...], named: Named) -> None:
    """Zero borders and alignment channels, the past in front, the last frames kept; exactly."""
    out, kept = results[0], results[-1]
    front, keep, past = named["front"], named["keep"], named["past"]
    assert_zero_border(out)
    assert torch.equal(out[:, :front], torch.zeros_like(out[:, :front]) if past is None else past)
    if keep:
        assert torch.equal(kept, out[:, out.shape[1] - keep :])
    else:
        assert not kept.numel()
    if len(results) == 3 and named["raw"]:
        assert results[1].shape[1] == out.shape[1] - front
        assert_zero_border(results[1])
    if "channels" in named:
        assert not out[..., named["channels"] :].any()


def assert_zero_border(x_halo: Tensor) -> None:
    assert not x_halo[:, :, -1].any()
    assert not x_halo[:, :, :, -1].any()


def planes(x_halo: Tensor, front: int, channels: int) -> Tensor:
    """The interior as `[B, C, T, H, W]` in double, on the CPU: what plain definitions take."""
    return interior(x_halo, front, channels).movedim(-1, 1).double().cpu()


def past_planes(x_halo: Tensor, front: int, frames: int, channels: int) -> Tensor:
    """The last `frames` of the past in front, likewise."""
    return planes(x_halo[:, front - frames : front], 0, channels)
