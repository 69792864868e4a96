"""3-D convolution that sees the past only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv3d(
    x_BCTHW: Tensor,
    past_BCKHW: Tensor,
    weight_OIDHW: Tensor,
    bias_O: Tensor | None,
    stride: tuple[int, int, int] = (1, 1, 1),
) -> Tensor:
    """Convolve a chunk of a stream, given the frames before it.

    Height and width are zero-padded by half the filter; time is not padded, its past is
    `past_BCKHW`: `kt - 1` zero frames before a stream's first chunk, afterwards what `next_past`
    gave for the chunk before.

    Returns:
        `[B, O, (K + T - kt) // st + 1, ceil(H / sh), ceil(W / sw)]`.
    """
    _, _, _, kh, kw = weight_OIDHW.shape
    if past_BCKHW.shape[2]:
        x_BCTHW = torch.cat([past_BCKHW, x_BCTHW], dim=2)
    return F.conv3d(x_BCTHW, weight_OIDHW, bias_O, stride, (0, kh // 2, kw // 2))


def next_past(x_BCTHW: Tensor, past_BCKHW: Tensor, kt: int, st: int) -> Tensor:
    """Frames the next chunk's convolution needs: the last `kt - st` of the past and the chunk.

    A copy, so that the chunk's memory can be given back.
    """
    keep = kt - st
    missing = keep - x_BCTHW.shape[2]
    if missing > 0:
        return torch.cat([past_BCKHW[:, :, past_BCKHW.shape[2] - missing :], x_BCTHW], dim=2)
    return x_BCTHW[:, :, x_BCTHW.shape[2] - keep :].clone()
