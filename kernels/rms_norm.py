"""Root-mean-square norm over channels, per position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x_BCTHW: Tensor, gain_C: Tensor, eps: float) -> Tensor:
    """Divide every position's channel vector by its root mean square, in fp32.

    No statistics over time or space, so cutting a video into chunks cannot change the result
    (Zhang and Sennrich 2019, arXiv 1910.07467).
    """
    y = F.rms_norm(x_BCTHW.movedim(1, -1).float(), gain_C.shape, gain_C.float(), eps)
    return y.to(x_BCTHW.dtype).movedim(-1, 1)


def rms_norm_silu(x_BCTHW: Tensor, gain_C: Tensor, eps: float) -> Tensor:
    """`silu(rms_norm(x))` in few passes over memory, rounded once. For inference: it works in
    place, so that no gradient goes through it."""
    y = x_BCTHW.movedim(1, -1).to(torch.float32, copy=True)
    length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    y.mul_(length.square_().div_(y.shape[-1]).add_(eps).rsqrt_()).mul_(gain_C.float())
    return F.silu(y, inplace=True).to(x_BCTHW.dtype).movedim(-1, 1)
