"""How a kernel ends: norm, activation, borders, past. The definition is `halo.finish_reference`.

A tile of a result is consecutive rows of one batch item, so that everything is read and written in
boxes of `[1, BM, BN]` that bulk copies clip by themselves: no masks, no addresses in registers, and
no limit of 2^31 elements.
"""

import triton
import triton.language as tl


@triton.jit
def locate(m, H, W):
    """Flat rows of a buffer's frames -> frame, y, x."""
    S = (H + 1) * (W + 1)
    place = m % S
    return m // S, place // (W + 1), place % (W + 1)


@triton.jit
def normed(rounded, cols, gain_ptr, eps, channels, C: tl.constexpr):
    """SiLU of the RMS norm over a row's channels, in fp32, rounded once; zero rows stay zero."""
    v = rounded.to(tl.float32)
    gain = tl.load(gain_ptr + cols, mask=cols < C, other=0.0)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / channels + eps)[:, None] * gain[None, :]
    return (v * tl.sigmoid(v)).to(rounded.dtype)


@triton.jit
def finish(
    value,  # [BM, BN] fp32: results at `BM` consecutive rows of the output's frames
    start,  # the first of them; a batch item's rows begin at 0, with its past frames
    batch,
    column,
    gain_ptr,
    out_desc,  # [B, (K + T) * S, C]
    raw_desc,  # [B, T * S, C]
    past_desc,  # [B, K * S, C]
    keep_desc,  # [B, KEEP * S, C]
    T,  # frames of the output, without its past
    H,
    W,
    eps,
    channels,
    C: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Round, zero the border, and write the raw result, the normed one, past and kept frames."""
    S = (H + 1) * (W + 1)
    frame, y, x = locate(start + tl.arange(0, BM), H, W)
    inside = (frame >= K) & (y < H) & (x < W)
    out = tl.where(inside[:, None], value, 0.0).to(out_desc.dtype)
    if raw_desc is not None:
        raw_desc.store([batch, start - K * S, column], out[None, :, :])
    if gain_ptr is not None:
        out = normed(out, column + tl.arange(0, BN), gain_ptr, eps, channels, C)
    if past_desc is not None:  # noqa: SIM102 (known when compiling)
        if start < K * S:
            past = past_desc.load([batch, start, column]).reshape(BM, BN)
            out = tl.where((frame < K)[:, None], past, out)
    out_desc.store([batch, start, column], out[None, :, :])
    if keep_desc is not None:
        dropped = (K + T - KEEP) * S
        if start + BM > dropped:
            keep_desc.store([batch, start - dropped, column], out[None, :, :])
