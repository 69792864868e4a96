"""Between uint8 frames and the model's range, in plain PyTorch. Both keep channels last."""

from __future__ import annotations

import torch
from torch import Tensor


def pixels_to_signed(frames_BTHWC: Tensor, multiple: int, dtype: torch.dtype) -> Tensor:
    """Frames uint8 -> `[B, 3, T, H, W]` in [-1, 1], sides padded to `multiple` by repeating the
    edge."""
    x_BTHWC = repeat_edges(frames_BTHWC, multiple).float().div_(127.5).sub_(1.0)
    return x_BTHWC.to(dtype).movedim(-1, 1)


def signed_to_pixels(x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """The way back: uint8 `[B, T, H, W, 3]`, rounded and cut off at 0 and 255, and whether all
    values were finite (a bool tensor)."""
    y_BTHWC = x_BCTHW.movedim(1, -1).float().add_(1.0).mul_(127.5)
    finite = torch.stack(y_BTHWC.aminmax()).isfinite().all()
    return y_BTHWC.round_().clamp_(0, 255).to(torch.uint8), finite


def repeat_edges(frames_BTHWC: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are whole multiples."""
    for axis in (2, 3):
        missing = -frames_BTHWC.shape[axis] % multiple
        if missing:
            edge = frames_BTHWC.narrow(axis, frames_BTHWC.shape[axis] - 1, 1)
            frames_BTHWC = torch.cat([frames_BTHWC, *[edge] * missing], dim=axis)
    return frames_BTHWC
