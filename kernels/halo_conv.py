"""Causal convolution of stride 1 in halo layout: Triton kernel, reference, registration."""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import finish
from pvtok.kernels.halo import finish_reference, interior
from pvtok.kernels.registration import Buffers, boxes, buffers, descriptor, register
from pvtok.kernels.tiles import Tile, tile_for


@triton.jit(do_not_specialize=["T", "H", "W", "first", "x_front", "residual_front", "channels"])
def conv_kernel(
    x_desc,  # [B * (KX + T) * S, C]
    w_desc,  # [taps * C, O]
    bias_ptr,
    residual_desc,
    gain_ptr,
    out_desc,
    raw_desc,
    past_desc,
    keep_desc,
    T,
    H,
    W,
    first,  # 1 where the past is all zeros
    x_front,
    residual_front,
    eps,
    channels,
    C: tl.constexpr,
    O: tl.constexpr,
    KT: tl.constexpr,
    KS: tl.constexpr,
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
    tile_n = tl.program_id(0) % TILES_N
    start = tl.program_id(0) // TILES_N * BM
    batch = tl.program_id(1)
    S = (H + 1) * (W + 1)
    column = tile_n * BN

    # The tile's last frame says which taps can meet anything but the zero past of a stream.
    last = tl.minimum(start + BM - 1, (K + T) * S - 1) // S - K
    skipped = tl.where(first != 0, tl.maximum(KT - 1 - last, 0), 0)
    skipped = tl.where(last < 0, KT, skipped)
    row = (batch * (x_front + T) + x_front - K) * S + start
    acc = tl.zeros([BM, BN], tl.float32)
    for i in range(skipped * KS * KS * BLOCKS_K, KT * KS * KS * BLOCKS_K):
        tap = i // BLOCKS_K
        k = i % BLOCKS_K * BK
        shift = (tap // (KS * KS) - (KT - 1)) * S
        shift += (tap // KS % KS - KS // 2) * (W + 1) + tap % KS - KS // 2
        a = x_desc.load([row + shift, k])
        w = w_desc.load([tap * C + k, column])
        acc = tl.dot(a, w, acc, input_precision=PRECISION)

    cols = column + tl.arange(0, BN)
    acc += tl.load(bias_ptr + cols, mask=cols < O, other=0.0)[None, :]
    if residual_desc is not None:
        row = residual_front * S - K * S + start
        acc += residual_desc.load([batch, row, column]).reshape(BM, BN).to(tl.float32)
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
    residual_front: int,
    time_taps: int,
    space_taps: int,
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
    out = allocate(x, weight, x_front, front, keep, raw)
    B, frames, H1, W1, C = x.shape
    O, T = weight.shape[1], frames - x_front
    tile = tile or tile_for("conv", x, out.out, time_taps, space_taps, normed=gain is not None)
    rows = (front + T) * H1 * W1
    grid = (triton.cdiv(rows, tile.m) * triton.cdiv(O, tile.n), B)
    conv_kernel[grid](
        descriptor(x.view(-1, C), (tile.m, tile.k)),
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
        int(first),
        x_front,
        residual_front,
        eps,
        channels,
        C=C,
        O=O,
        KT=time_taps,
        KS=space_taps,
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


def allocate(x: Tensor, weight: Tensor, x_front: int, front: int, keep: int, raw: bool) -> Buffers:
    B, frames, H1, W1, _ = x.shape
    return buffers(x, (B, frames - x_front, H1, W1, weight.shape[1]), front, keep, raw)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    past: Tensor | None,
    x_front: int,
    residual_front: int,
    time_taps: int,
    space_taps: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
    eps: float,
    channels: int,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch, in fp32 but for the roundings to the inputs' dtype."""
    C, O = x.shape[-1], weight.shape[1]
    seen = interior(x, x_front - (time_taps - 1)).movedim(-1, 1).float()
    w = weight.view(time_taps, space_taps, space_taps, C, O).permute(4, 3, 0, 1, 2).float()
    value = F.conv3d(seen, w, bias, padding=(0, space_taps // 2, space_taps // 2))
    value = value.movedim(1, -1)
    if residual is not None:
        value = value + interior(residual, residual_front).float()
    return finish_reference(value, x.dtype, gain, eps, channels, past, front, keep, raw)


def fake(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, *_ = args
    x_front, front, keep, raw = args[6], args[11], args[12], args[13]
    return allocate(x, weight, x_front, front, keep, raw).results()  # type: ignore[arg-type]


conv = register(
    "halo_conv(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? gain, Tensor? past, "
    "int x_front, int residual_front, int time_taps, int space_taps, bool first, int front, "
    "int keep, bool raw, float eps, int channels, bool tf32) -> (Tensor, Tensor, Tensor)",
    launch,
    reference,
    fake,
)
"""Causal convolution with bias, and optionally a residual, the next norm and SiLU.

`x` is `[B, x_front + T, H+1, W+1, C]`, `x_front >= time_taps - 1`; `weight` from `pack_weight`; the
result keeps T, H and W. `first` says that the past in front of `x` is zeros, whose taps are then
skipped. The rest as in `finish_reference`. fp32 inputs are multiplied in fp32, or in tf32 where
`tf32` says so.
"""
