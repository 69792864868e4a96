"""Folded x2 upsampling convolution in halo layout: Triton kernel, reference, registration."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import locate, normed
from pvtok.kernels.halo import aligned, finish_reference, interior
from pvtok.kernels.registration import Buffers, buffers, descriptor, register
from pvtok.kernels.tiles import Tile, tile_for


def pack_folded(folded_QIDHW: Tensor, phases: int) -> Tensor:
    """Filters of `fold_upsample_weight` as the kernel reads them: `[phases * taps * I, O]`."""
    Q, I, *_ = folded_QIDHW.shape
    O = Q // phases
    w = folded_QIDHW.unflatten(0, (phases, O)).permute(0, 3, 4, 5, 2, 1)
    w = F.pad(w, (0, aligned(O) - O, 0, aligned(I) - I))
    return w.reshape(-1, aligned(O)).contiguous()


@triton.jit(do_not_specialize=["T", "T_OUT", "H", "W", "x_front", "first", "channels"])
def up_kernel(
    x_desc,  # [B * (x_front + T) * S, C]
    x_ptr,
    w_desc,  # [phases * taps * C, O]
    bias_ptr,
    gain_ptr,
    out_ptr,
    raw_ptr,
    past_ptr,
    keep_ptr,
    T,  # frames of the source
    T_OUT,
    H,  # of the source
    W,
    x_front,
    first,
    eps,
    channels,
    C: tl.constexpr,
    O: tl.constexpr,
    PT: tl.constexpr,
    REPEATS: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One phase of the outputs of `BM` source rows, by `BN` channels.

    The source's border stands for the output's, and source frames before the first for its past.
    """
    TILES_N: tl.constexpr = (O + BN - 1) // BN
    BLOCKS_K: tl.constexpr = C // BK
    PHASES: tl.constexpr = 4 * PT
    column = tl.program_id(0) % TILES_N * BN
    phase = tl.program_id(0) // TILES_N % PHASES
    start = tl.program_id(0) // (TILES_N * PHASES) * BM
    batch = tl.program_id(1).to(tl.int64)
    pt = phase // 4
    py = phase // 2 % 2
    px = phase % 2
    S = (H + 1) * (W + 1)
    cut = tl.where(first != 0, PT - 1, 0)
    before = (K - cut + PT - 1) // PT

    last = tl.minimum(start + BM - 1, (before + T) * S - 1) // S - before
    skipped = tl.where((first != 0) & (last <= 0), PT - 1, 0)
    skipped = tl.where(PT * last + pt < cut, PT, skipped)
    row = ((batch * (x_front + T) + x_front - before) * S + start).to(tl.int32)
    acc = tl.zeros([BM, BN], tl.float32)
    for i in range(skipped * 4 * BLOCKS_K, PT * 4 * BLOCKS_K):
        tap = i // BLOCKS_K
        k = i % BLOCKS_K * BK
        shift = (tap // 4 - (PT - 1)) * S
        shift += (tap // 2 % 2 - 1 + py) * (W + 1) + tap % 2 - 1 + px
        a = x_desc.load([row + shift, k])
        w = w_desc.load([(phase * PT * 4 + tap) * C + k, column])
        acc = tl.dot(a, w, acc, input_precision=PRECISION)

    cols = column + tl.arange(0, BN)
    lane = (cols < O)[None, :]
    acc += tl.load(bias_ptr + cols, mask=cols < O, other=0.0)[None, :]
    source, y, x = locate(start + tl.arange(0, BM), H, W)
    source -= before
    frame = K + PT * source + pt - cut  # of the output buffer, its past among them
    inside = (frame >= K) & (y < H) & (x < W) & (source < T)
    if REPEATS > 0:
        channel = (cols * PHASES + phase) // REPEATS
        from_row = (batch * (x_front + T) + x_front + source) * S + y * (W + 1) + x
        acc += tl.load(
            x_ptr + from_row[:, None] * C + channel[None, :],
            mask=inside[:, None] & lane & (channel < C)[None, :],
            other=0.0,
        ).to(tl.float32)

    y = 2 * y + py
    x = 2 * x + px
    place = y * (2 * W + 1) + x
    size = (2 * H + 1) * (2 * W + 1)
    live = (frame >= 0) & (frame < K + T_OUT) & (y <= 2 * H) & (x <= 2 * W)
    out = tl.where(inside[:, None], acc, 0.0).to(out_ptr.dtype.element_ty)
    if raw_ptr is not None:
        to = (batch * T_OUT + frame - K) * size + place
        tl.store(
            raw_ptr + to[:, None] * O + cols[None, :],
            out,
            mask=(live & (frame >= K))[:, None] & lane,
        )
    if gain_ptr is not None:
        out = normed(out, cols, gain_ptr, eps, channels, O)
    if past_ptr is not None:
        of = (batch * K + frame) * size + place
        past = tl.load(
            past_ptr + of[:, None] * O + cols[None, :],
            mask=(live & (frame < K))[:, None] & lane,
            other=0.0,
        )
        out = tl.where((frame < K)[:, None], past, out)
    to = (batch * (K + T_OUT) + frame) * size + place
    tl.store(out_ptr + to[:, None] * O + cols[None, :], out, mask=live[:, None] & lane)
    if keep_ptr is not None:
        dropped = K + T_OUT - KEEP
        to = (batch * KEEP + frame - dropped) * size + place
        tl.store(
            keep_ptr + to[:, None] * O + cols[None, :],
            out,
            mask=(live & (frame >= dropped))[:, None] & lane,
        )


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor | None,
    past: Tensor | None,
    x_front: int,
    time_factor: int,
    repeats: int,
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
    out = allocate(x, weight, x_front, time_factor, first, front, keep, raw)
    B, frames, H1, W1, C = x.shape
    O, T, pt = weight.shape[1], frames - x_front, time_factor
    tile = tile or tile_for("up", x, out.out, pt, 2, normed=gain is not None)
    before = -(-(front - (pt - 1) * first) // pt)  # source frames that stand for the past
    rows = (before + T) * H1 * W1
    grid = (triton.cdiv(rows, tile.m) * 4 * pt * triton.cdiv(O, tile.n), B)
    up_kernel[grid](
        descriptor(x.view(-1, C), (tile.m, tile.k)),
        x,
        descriptor(weight, (tile.k, tile.n)),
        bias,
        gain,
        out.out,
        out.raw,
        past if front else None,
        out.keep,
        T,
        out.out.shape[1] - front,
        H1 - 1,
        W1 - 1,
        x_front,
        int(first),
        eps,
        channels,
        C=C,
        O=O,
        PT=pt,
        REPEATS=repeats,
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
    time_factor: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
) -> Buffers:
    B, frames, H1, W1, _ = x.shape
    T = (frames - x_front) * time_factor - (time_factor - 1) * first
    return buffers(x, (B, T, 2 * H1 - 1, 2 * W1 - 1, weight.shape[1]), front, keep, raw)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor | None,
    past: Tensor | None,
    x_front: int,
    time_factor: int,
    repeats: int,
    first: bool,
    front: int,
    keep: int,
    raw: bool,
    eps: float,
    channels: int,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch, phase by phase, in fp32 but for the roundings to the inputs' dtype."""
    C, O, pt = x.shape[-1], weight.shape[1], time_factor
    seen = F.pad(interior(x, x_front - (pt - 1)).movedim(-1, 1).float(), (1, 1, 1, 1))
    filters = weight.view(pt, 2, 2, pt, 2, 2, C, O).permute(0, 1, 2, 7, 6, 3, 4, 5).float()
    H, W = seen.shape[3] - 2, seen.shape[4] - 2
    times = []
    for t in range(pt):
        rows = []
        for y in (0, 1):
            columns = [
                F.conv3d(seen[:, :, :, y : y + H + 1, x_ : x_ + W + 1], filters[t, y, x_], bias)
                for x_ in (0, 1)
            ]
            rows.append(torch.stack(columns, dim=-1).flatten(-2))
        times.append(torch.stack(rows, dim=-2).flatten(-3, -2))
    value = torch.stack(times, dim=3).flatten(2, 3).movedim(1, -1)  # [B, pt * T, 2H, 2W, O]
    if repeats:
        now = interior(x, x_front).float().repeat_interleave(repeats, dim=-1)
        now = F.pad(now, (0, max(0, O * 4 * pt - now.shape[-1])))[..., : O * 4 * pt]
        now = now.unflatten(-1, (O, pt, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        value = value + now.flatten(1, 2).flatten(2, 3).flatten(3, 4)
    value = value[:, (pt - 1) * first :]
    return finish_reference(value, x.dtype, gain, eps, channels, past, front, keep, raw)


def fake(*args: object) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, x_front, pt = args[0], args[1], args[5], args[6]
    first, front, keep, raw = args[8:12]
    return allocate(x, weight, x_front, pt, first, front, keep, raw).results()  # type: ignore[arg-type]


up = register(
    "halo_up(Tensor x, Tensor weight, Tensor bias, Tensor? gain, Tensor? past, int x_front, "
    "int time_factor, int repeats, bool first, int front, int keep, bool raw, float eps, "
    "int channels, bool tf32) -> (Tensor, Tensor, Tensor)",
    launch,
    reference,
    fake,
)
"""Nearest x2 upsampling in space, and in time where `time_factor` is 2, then a 3-tap convolution,
folded (see `upsample_conv`); `weight` from `pack_folded`.

With time, one past frame stands in front of `x`, and a stream's very first output frame is dropped
(`first`). `repeats` > 0 adds the shortcut of `model.resample.Upsample`. The rest as in
`halo_conv.conv`.
"""
