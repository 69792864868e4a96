"""The shortcut around downsampling, in halo layout: channel means of space-to-depth."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import locate
from pvtok.kernels.halo import interior, to_halo
from pvtok.kernels.registration import buffers, register

ROWS, COLUMNS = 32, 64
"""Of the output, made by one program."""


@triton.jit(do_not_specialize=["T", "H", "W", "x_frames", "x_front", "first"])
def shortcut_kernel(
    x_ptr,
    out_ptr,
    T,  # frames of the output
    H,
    W,
    x_frames,  # frames of the input buffer, its past among them
    x_front,
    first,
    C: tl.constexpr,
    O: tl.constexpr,
    ST: tl.constexpr,
    AVERAGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """`BM` rows of the output by `BN` channels."""
    TILES_N: tl.constexpr = (O + BN - 1) // BN
    batch = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) // TILES_N * BM + tl.arange(0, BM)
    cols = tl.program_id(0) % TILES_N * BN + tl.arange(0, BN)
    S = (H + 1) * (W + 1)
    x_width = 2 * W + 1
    x_size = (2 * H + 1) * x_width
    frame, y, x = locate(m, H, W)
    wanted = (frame < T) & (y < H) & (x < W)
    base = x_ptr + batch * x_frames * x_size * C
    mean = tl.zeros([BM, BN], tl.float32)
    for i in tl.static_range(AVERAGED):
        item = cols * AVERAGED + i  # of space-to-depth, ordered (channel, t, y, x)
        channel = item // (4 * ST)
        t = ST * frame[:, None] + (item // 4 % ST)[None, :]
        # A stream's first frame makes a group of its own, repeated.
        t = tl.where(first != 0, tl.maximum(t - (ST - 1), 0), t)
        row = (x_front + t).to(tl.int64) * x_size
        row += (2 * y[:, None] + (item // 2 % 2)[None, :]) * x_width
        row += 2 * x[:, None] + (item % 2)[None, :]
        there = wanted[:, None] & (channel < C)[None, :]
        mean += tl.load(base + row * C + channel[None, :], mask=there, other=0.0).to(tl.float32)
    to = (batch * T * S + m)[:, None] * O + cols[None, :]
    live = (frame < T)[:, None] & (cols < O)[None, :]
    tl.store(out_ptr + to, (mean / AVERAGED).to(out_ptr.dtype.element_ty), mask=live)


def launch(
    x: Tensor, channels: int, x_front: int, time_stride: int, averaged: int, first: bool
) -> Tensor:
    out = fake(x, channels, x_front, time_stride, averaged, first)
    B, T, H1, W1, O = out.shape
    grid = (triton.cdiv(T * H1 * W1, ROWS) * triton.cdiv(O, COLUMNS), B)
    shortcut_kernel[grid](
        x,
        out,
        T,
        H1 - 1,
        W1 - 1,
        x.shape[1],
        x_front,
        int(first),
        C=x.shape[-1],
        O=O,
        ST=time_stride,
        AVERAGED=averaged,
        BM=ROWS,
        BN=COLUMNS,
    )
    return out


def reference(
    x: Tensor, channels: int, x_front: int, time_stride: int, averaged: int, first: bool
) -> Tensor:
    """The same in PyTorch, in fp32 but for the rounding to the input's dtype."""
    st, now = time_stride, interior(x, x_front).float()
    if first:
        now = torch.cat([now[:, :1]] * (st - 1) + [now], dim=1)
    B, T, H, W, C = now.shape
    folded = now.view(B, T // st, st, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 5, 7, 2, 4, 6)
    folded = folded.reshape(B, T // st, H // 2, W // 2, C * st * 4)
    missing = max(0, channels * averaged - folded.shape[-1])
    folded = F.pad(folded, (0, missing))[..., : channels * averaged]
    return to_halo(folded.unflatten(-1, (channels, averaged)).mean(-1).to(x.dtype))


def fake(
    x: Tensor, channels: int, x_front: int, time_stride: int, averaged: int, first: bool
) -> Tensor:
    B, frames, H1, W1, _ = x.shape
    T = (frames - x_front + (time_stride - 1) * first) // time_stride
    shape = (B, T, (H1 - 1) // 2 + 1, (W1 - 1) // 2 + 1, channels)
    return buffers(x, shape, 0, 0, False).out


shortcut = register(
    "halo_shortcut(Tensor x, int channels, int x_front, int time_stride, int averaged, bool first) "
    "-> Tensor",
    launch,
    reference,
    fake,
)
"""Means over `averaged` consecutive channels of space-to-depth, as in `model.resample.Downsample`:
`[B, T, H/2+1, W/2+1, channels]`, with no past in front."""
