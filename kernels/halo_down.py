"""Strided causal convolution in halo layout: Triton kernel, reference, registration."""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import finish, locate
from pvtok.kernels.halo import finish_reference, interior
from pvtok.kernels.registration import Buffers, boxes, buffers, descriptor, register
from pvtok.kernels.tiles import Tile, tile_for


@triton.jit(do_not_specialize=["T", "H", "W", "x_frames", "x_front", "first", "channels"])
def down_kernel(
    x_ptr,
    w_desc,  # [taps * C, O]
    bias_ptr,
    residual_desc,  # [B, T * S, O]
    gain_ptr,
    out_desc,
    raw_desc,
    past_desc,
    keep_desc,
    T,  # frames of the output
    H,
    W,
    x_frames,  # frames of the input buffer, its past among them
    x_front,
    first,
    eps,
    channels,
    C: tl.constexpr,
    O: tl.constexpr,
    KT: tl.constexpr,
    ST: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One tile of `BM` rows of the output buffer, its past among them, by `BN` channels."""
    TILES_N: tl.constexpr = (O + BN - 1) // BN
    BLOCKS_K: tl.constexpr = C // BK
    column = tl.program_id(0) % TILES_N * BN
    start = tl.program_id(0) // TILES_N * BM
    batch = tl.program_id(1)
    S = (H + 1) * (W + 1)
    x_width = 2 * W + 1
    x_size = (2 * H + 1) * x_width
    frame, y, x = locate(start + tl.arange(0, BM), H, W)
    wanted = (frame >= K) & (frame < K + T) & (y < H) & (x < W)

    last = tl.minimum(start + BM - 1, (K + T) * S - 1) // S - K
    skipped = tl.where((first != 0) & (last == 0), KT - 1, 0)
    skipped = tl.where(last < 0, KT, skipped)
    # In frames of the buffer, tap `dt` of output `t` is `ST * t + dt + ahead`.
    ahead = x_front - (KT - 1) if ST == 1 else x_front - tl.where(first != 0, KT - 1, KT - 2)
    origin = batch.to(tl.int64) * x_frames * x_size
    row = origin + (ST * (frame - K) + ahead).to(tl.int64) * x_size + 2 * y * x_width + 2 * x
    addresses = x_ptr + row[:, None] * C + tl.arange(0, BK)[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for i in range(skipped * 9 * BLOCKS_K, KT * 9 * BLOCKS_K):
        tap = i // BLOCKS_K
        k = i % BLOCKS_K * BK
        shift = tap // 9 * x_size + (tap // 3 % 3 - 1) * x_width + tap % 3 - 1
        # The border before the very first row lies outside the buffer.
        there = wanted & (row + shift >= 0)
        a = tl.load(addresses + (shift.to(tl.int64) * C + k), mask=there[:, None], other=0.0)
        acc = tl.dot(a, w_desc.load([tap * C + k, column]), acc, input_precision=PRECISION)

    cols = column + tl.arange(0, BN)
    acc += tl.load(bias_ptr + cols, mask=cols < O, other=0.0)[None, :]
    if residual_desc is not None:
        acc += residual_desc.load([batch, start - K * S, column]).reshape(BM, BN).to(tl.float32)
    finish(
        acc, start, batch, column, gain_ptr, out_desc, raw_desc, past_desc, keep_desc,
        T, H, W, eps, channels, O, K, KEEP, BM, BN,
    )  # fmt: skip


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    past: Tensor | None,
    x_front: int,
    time_taps: int,
    time_stride: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
    eps: float,
    channels: int,
    tf32: bool,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel, with the table's tile unless another is given (the tile search does)."""
    out = allocate(x, weight, x_front, time_stride, first, front, keep, raw)
    B, _, H1, W1, O = out.out.shape
    C, T = x.shape[-1], out.out.shape[1] - front
    tile = tile or tile_for("down", x, out.out, time_taps, 3, normed=gain is not None)
    grid = (triton.cdiv((front + T) * H1 * W1, tile.m) * triton.cdiv(O, tile.n), B)
    down_kernel[grid](
        x,
        descriptor(weight, (tile.k, tile.n)),
        bias,
        boxes(residual, tile),
        gain,
        boxes(out.out, tile),
        boxes(out.raw, tile),
        boxes(past, tile),
        boxes(out.keep, tile),
        T,
        H1 - 1,
        W1 - 1,
        x.shape[1],
        x_front,
        int(first),
        eps,
        channels,
        C=C,
        O=O,
        KT=time_taps,
        ST=time_stride,
        K=front,
        KEEP=keep,
        PRECISION="tf32" if tf32 else "ieee",
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out.results()


def allocate(
    x: Tensor,
    weight: Tensor,
    x_front: int,
    time_stride: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
) -> Buffers:
    B, frames, H1, W1, _ = x.shape
    T = (frames - x_front + (time_stride - 1) * first) // time_stride
    shape = (B, T, (H1 - 1) // 2 + 1, (W1 - 1) // 2 + 1, weight.shape[1])
    return buffers(x, shape, front, keep, raw)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    past: Tensor | None,
    x_front: int,
    time_taps: int,
    time_stride: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
    eps: float,
    channels: int,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch, in fp32 but for the roundings to the inputs' dtype."""
    C, O, st = x.shape[-1], weight.shape[1], time_stride
    behind = time_taps - 1 if st == 1 or first else time_taps - 2
    seen = interior(x, x_front - behind).movedim(-1, 1).float()
    w = weight.view(time_taps, 3, 3, C, O).permute(4, 3, 0, 1, 2).float()
    value = F.conv3d(seen, w, bias, stride=(st, 2, 2), padding=(0, 1, 1)).movedim(1, -1)
    if residual is not None:
        value = value + interior(residual, 0).float()
    return finish_reference(value, x.dtype, gain, eps, channels, past, front, keep, raw)


def fake(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, x_front, st = args[0], args[1], args[6], args[8]
    first, front, keep, raw = args[9:13]
    return allocate(x, weight, x_front, st, first, front, keep, raw).results()  # type: ignore[arg-type]


down = register(
    "halo_down(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? gain, Tensor? past, "
    "int x_front, int time_taps, int time_stride, bool first, int front, int keep, bool raw, "
    "float eps, int channels, bool tf32) -> (Tensor, Tensor, Tensor)",
    launch,
    reference,
    fake,
)
"""Causal convolution of space stride 2 and time stride 1 or 2, 3 x 3 taps in space.

With time stride 2 the past in front of `x` is two zero frames where `first`, one frame later, and
`1 + 2m` frames become `1 + m`, later `2m` become `m`. `residual` has no past in front. The rest as
in `halo_conv.conv`.
"""
