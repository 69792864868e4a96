"""The halo layout: how activations lie in memory for the Triton kernels.

An activation is `[B, K + T, H + 1, W + 1, C]`, contiguous: channels last, `K` frames of causal past
in front, and one zero row below and one zero column right of every frame. Seen as rows of `C`
channels, the row below ends one frame and begins the next, and the column right ends one line and
begins the next, so the single border is the zero padding of all four sides, and a filter tap is
the same shift of rows for every position: a tile of inputs is a plain two-dimensional box. Nothing
is padded, concatenated or copied between operations; each writes its own border, and the past that
the next one needs.

`C` is a multiple of 16, so that rows keep the alignment of bulk copies; channels beyond the true
ones are zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGN = 16
"""Channels are padded to a multiple of this."""


def aligned(channels: int) -> int:
    """`channels`, rounded up to a whole number of alignment units."""
    return -(-channels // ALIGN) * ALIGN


def to_halo(x_BTHWC: Tensor, past_BKHWC: Tensor | None = None, front: int = 0) -> Tensor:
    """Lay out `[B, T, H, W, c]`, after `front` frames of past, zeros where it is None."""
    B, T, H, W, c = x_BTHWC.shape
    out = x_BTHWC.new_zeros(B, front + T, H + 1, W + 1, aligned(c))
    out[:, front:, :H, :W, :c] = x_BTHWC
    if past_BKHWC is not None and front:
        out[:, :front] = past_BKHWC
    return out


def interior(x_halo: Tensor, front: int, channels: int | None = None) -> Tensor:
    """A view of what `to_halo` laid out: `[B, T, H, W, channels]`."""
    return x_halo[:, front:, :-1, :-1, :channels]


def pack_weight(weight_OIDHW: Tensor) -> Tensor:
    """Filters as the kernels read them: `[taps * I, O]`, taps ordered (time, y, x)."""
    O, I, *_ = weight_OIDHW.shape
    w = F.pad(weight_OIDHW.permute(2, 3, 4, 1, 0), (0, aligned(O) - O, 0, aligned(I) - I))
    return w.reshape(-1, aligned(O)).contiguous()


def pack_channels(values_C: Tensor) -> Tensor:
    """A bias or gain in fp32, zero for the channels that are there for alignment only."""
    C = values_C.shape[0]
    return F.pad(values_C.float(), (0, aligned(C) - C)).contiguous()


def finish_reference(
    value_BTHWC: Tensor,
    dtype: torch.dtype,
    gain: Tensor | None,
    eps: float,
    channels: int,
    past: Tensor | None,
    front: int,
    keep: int,
    raw: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What every operation does with its result: the definition of `kernels.epilogue`.

    Args:
        value_BTHWC: the interior of the result, fp32, with aligned channels.
        gain: RMS norm over the channels with this gain, then SiLU; None leaves both out.
        channels: the true number of them, which the mean square is over.
        past: `[B, front, H+1, W+1, C]` to lay in front, None for zeros.
        keep: how many of the last frames are given back as the next step's past.
        raw: whether the result before the norm is wanted too.

    Returns:
        The output in halo layout, the raw result in halo layout without a past, and the kept
        frames; empty tensors for what was not asked for.
    """
    T = value_BTHWC.shape[1]
    rounded = value_BTHWC.to(dtype)
    none = rounded.new_zeros(0)
    raw_out = to_halo(rounded) if raw else none
    if gain is not None:
        v = rounded.float()
        n = v * torch.rsqrt(v.square().sum(-1, keepdim=True) / channels + eps) * gain
        rounded = F.silu(n).to(dtype)
    out = to_halo(rounded, past, front)
    return out, raw_out, out[:, front + T - keep :].clone() if keep else none
