"""3-D convolution that sees the past only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtok.kernels.products import convolve


def causal_conv3d(
    x_BCTHW: Tensor,
    past_BCKHW: Tensor | None,
    weight_OIDHW: Tensor,
    bias_O: Tensor | None,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int] | None = None,
) -> Tensor:
    """Convolve a chunk of a stream, given the frames before it.

    Height and width are zero-padded by half the filter, or by `padding`; time is not padded. Its
    past is None before a stream's first chunk, which stands for `kt - 1` zero frames, and
    afterwards what `next_past` gave for the chunk before. What is channels-last stays so.

    Returns:
        `[B, O, (K + T - kt) // st + 1, ceil(H / sh), ceil(W / sw)]` with the usual padding.
    """
    kt, kh, kw = weight_OIDHW.shape[2:]
    ph, pw = (kh // 2, kw // 2) if padding is None else padding
    if past_BCKHW is None:  # taps that only meet the zero past are left out
        kt = min(kt, x_BCTHW.shape[2])
        weight_OIDHW = weight_OIDHW[:, :, weight_OIDHW.shape[2] - kt :]
    if kt == 1 and channels_last(x_BCTHW):
        return _by_frames(x_BCTHW[:, :, :: stride[0]], weight_OIDHW, bias_O, stride, (ph, pw))
    x_BCTHW = with_past(x_BCTHW, past_BCKHW, kt - 1)
    y = convolve(F.conv3d, x_BCTHW, weight_OIDHW, bias_O, stride, (0, ph, pw))
    # Shapes and dtypes that torch has no library for come back in the other layout.
    return y.contiguous(memory_format=torch.channels_last_3d) if channels_last(x_BCTHW) else y


def _by_frames(
    x_BCTHW: Tensor,
    weight_OI1HW: Tensor,
    bias_O: Tensor | None,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> Tensor:
    """One tap in time: a 2-D convolution of every frame, for which libraries are faster."""
    frames = x_BCTHW.transpose(1, 2).flatten(0, 1)
    y = convolve(F.conv2d, frames, weight_OI1HW[:, :, 0], bias_O, stride[1:], padding)
    y = y.contiguous(memory_format=torch.channels_last)
    out: Tensor = y.unflatten(0, (len(x_BCTHW), -1)).transpose(1, 2)
    return out


def with_past(x_BCTHW: Tensor, past_BCKHW: Tensor | None, zeros: int) -> Tensor:
    """The chunk after its past, or after so many zero frames; channels-last if the chunk is.

    `torch.cat` alone falls back to the other layout where its inputs differ in theirs.
    """
    if past_BCKHW is None:
        past_BCKHW = torch.zeros_like(x_BCTHW[:, :, :1]).expand(-1, -1, zeros, -1, -1)
    if not past_BCKHW.shape[2]:
        return x_BCTHW
    if not channels_last(x_BCTHW):
        return torch.cat([past_BCKHW, x_BCTHW], dim=2)
    parts = [past_BCKHW.movedim(1, -1), x_BCTHW.movedim(1, -1)]
    return torch.cat([p.contiguous() for p in parts], dim=1).movedim(-1, 1)


def channels_last(x_BCTHW: Tensor) -> bool:
    """Whether the channels of a position lie side by side in memory."""
    return x_BCTHW.stride(1) == 1


def next_past(x_BCTHW: Tensor, past_BCKHW: Tensor | None, kt: int, st: int) -> Tensor:
    """Frames the next chunk's convolution needs: the last `kt - st` of the past and the chunk.

    A copy, so that the chunk's memory can be given back, and of one layout however long the chunk
    was: compiled steps are specialised on it.
    """
    keep = kt - st
    missing = keep - x_BCTHW.shape[2]
    if missing > 0:
        past = None if past_BCKHW is None else past_BCKHW[:, :, past_BCKHW.shape[2] - missing :]
        return with_past(x_BCTHW, past, missing)
    layout = torch.channels_last_3d if channels_last(x_BCTHW) else torch.contiguous_format
    return x_BCTHW[:, :, x_BCTHW.shape[2] - keep :].clone(memory_format=layout)
