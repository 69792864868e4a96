"""Between uint8 frames and the halo layout: value range, edge padding, patches, rounding."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import finish, locate
from pvtok.kernels.halo import aligned, finish_reference, interior
from pvtok.kernels.registration import Buffers, boxes, buffers, register
from pvtok.kernels.tiles import Tile

PIXEL_TILE = Tile(m=16, n=64, k=16, warps=4, stages=1)
BLOCK = 1024
"""Bytes of frames one program makes."""


@triton.jit(do_not_specialize=["T", "H", "W", "HEIGHT", "WIDTH"])
def pixels_in_kernel(
    frames_ptr,  # [B, T, HEIGHT, WIDTH, 3]
    out_desc,
    past_desc,
    keep_desc,
    T,
    H,
    W,
    HEIGHT,
    WIDTH,
    P: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """`BM` rows of the output buffer, its past among them."""
    start = tl.program_id(0) * BM
    batch = tl.program_id(1).to(tl.int64)
    frame, y, x = locate(start + tl.arange(0, BM), H, W)
    cols = tl.arange(0, BN)
    wanted = (frame >= K) & (frame < K + T)
    y = tl.minimum(y[:, None] * P + (cols // P % P)[None, :], HEIGHT - 1)
    x = tl.minimum(x[:, None] * P + (cols % P)[None, :], WIDTH - 1)
    pixel = ((batch * T + frame - K)[:, None] * HEIGHT + y) * WIDTH + x
    value = tl.load(
        frames_ptr + pixel * 3 + (cols // (P * P))[None, :],
        mask=wanted[:, None] & (cols < 3 * P * P)[None, :],
        other=0,
    ).to(tl.float32)
    value = tl.where((cols < 3 * P * P)[None, :], value / 127.5 - 1.0, 0.0)
    finish(
        value, start, tl.program_id(1), 0, None, out_desc, None, past_desc, keep_desc,
        T, H, W, 0.0, C, C, K, KEEP, BM, BN,
    )  # fmt: skip


@triton.jit(do_not_specialize=["total", "T", "H", "W", "x_front"])
def pixels_out_kernel(
    x_ptr,  # [B, x_front + T, H + 1, W + 1, C]
    added_ptr,  # [B, 3, T, P * H, P * W]
    frames_ptr,  # [B, T, P * H, P * W, 3]
    total,
    T,
    H,
    W,
    x_front,
    P: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`BLOCK` consecutive bytes of frames."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < total
    color = i % 3
    x = i // 3 % (P * W)
    y = i // (3 * P * W) % (P * H)
    t = i // (3 * P * P * W * H) % T
    b = i // (3 * P * P * W * H * T)
    row = ((b * (x_front + T) + x_front + t) * (H + 1) + y // P) * (W + 1) + x // P
    value = tl.load(x_ptr + row * C + color * P * P + y % P * P + x % P, mask=live, other=0.0)
    value = value.to(tl.float32)
    if added_ptr is not None:
        at = (((b * 3 + color) * T + t) * P * H + y) * P * W + x
        value += tl.load(added_ptr + at, mask=live, other=0.0).to(tl.float32)
        value = value.to(x_ptr.dtype.element_ty).to(tl.float32)
    value = (value + 1.0) * 127.5
    value = tl.minimum(tl.maximum(value, 0.0), 255.0)
    # Adding and taking away 1.5 * 2^23 rounds to the nearest integer, halves to even.
    value = (value + 12582912.0) - 12582912.0
    tl.store(frames_ptr + i, value.to(tl.uint8), mask=live)


def launch_in(
    frames: Tensor, past: Tensor | None, patch: int, multiple: int, front: int, keep: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = allocate(frames, patch, multiple, front, keep, dtype)
    B, T, height, width, _ = frames.shape
    _, _, H1, W1, C = out.out.shape
    tile = PIXEL_TILE
    pixels_in_kernel[(triton.cdiv((front + T) * H1 * W1, tile.m), B)](
        frames.contiguous(),
        boxes(out.out, tile),
        boxes(past, tile),
        boxes(out.keep, tile),
        T,
        H1 - 1,
        W1 - 1,
        height,
        width,
        P=patch,
        C=C,
        K=front,
        KEEP=keep,
        BM=tile.m,
        BN=tile.n,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    results = out.results()
    return results[0], results[2]


def allocate(
    frames: Tensor, patch: int, multiple: int, front: int, keep: int, dtype: torch.dtype
) -> Buffers:
    B, T, height, width, _ = frames.shape
    H, W = (-(-side // multiple) * multiple // patch for side in (height, width))
    shape = (B, T, H + 1, W + 1, aligned(3 * patch * patch))
    return buffers(frames.new_empty(0, dtype=dtype), shape, front, keep, False)


def reference_in(
    frames: Tensor, past: Tensor | None, patch: int, multiple: int, front: int, keep: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same in PyTorch."""
    x = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
    H, W = x.shape[3:]
    x = F.pad(x, (0, -W % multiple, 0, -H % multiple, 0, 0), mode="replicate")
    B, _, T, H, W = x.shape
    x = x.view(B, 3, T, H // patch, patch, W // patch, patch).permute(0, 2, 3, 5, 1, 4, 6)
    x = x.flatten(4)
    C = x.shape[-1]
    x = F.pad(x, (0, aligned(C) - C))
    out, _, kept = finish_reference(x, dtype, None, 0.0, C, past, front, keep, raw=False)
    return out, kept


def fake_in(*args: object) -> tuple[Tensor, Tensor]:
    results = allocate(args[0], *args[2:]).results()  # type: ignore[arg-type]
    return results[0], results[2]


def launch_out(x: Tensor, added: Tensor | None, x_front: int, patch: int) -> Tensor:
    frames = fake_out(x, added, x_front, patch)
    _, T, height, width, _ = frames.shape
    total = frames.numel()
    pixels_out_kernel[(triton.cdiv(total, BLOCK),)](
        x,
        None if added is None else added.contiguous(),
        frames,
        total,
        T,
        height // patch,
        width // patch,
        x_front,
        P=patch,
        C=x.shape[-1],
        BLOCK=BLOCK,
    )
    return frames


def reference_out(x: Tensor, added: Tensor | None, x_front: int, patch: int) -> Tensor:
    """The same in PyTorch."""
    value = interior(x, x_front, 3 * patch * patch)
    B, T, H, W, _ = value.shape
    value = value.unflatten(-1, (3, patch, patch)).permute(0, 1, 2, 5, 3, 6, 4)
    value = value.reshape(B, T, patch * H, patch * W, 3)
    if added is not None:
        value = (value.float() + added.permute(0, 2, 3, 4, 1).float()).to(x.dtype)
    frames: Tensor = ((value.float() + 1.0) * 127.5).clamp(0, 255).round().to(torch.uint8)
    return frames


def fake_out(x: Tensor, added: Tensor | None, x_front: int, patch: int) -> Tensor:
    B, frames, H1, W1, _ = x.shape
    shape = (B, frames - x_front, (H1 - 1) * patch, (W1 - 1) * patch, 3)
    return x.new_empty(shape, dtype=torch.uint8)


pixels_in = register(
    "pixels_in(Tensor frames, Tensor? past, int patch, int multiple, int front, int keep, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    launch_in,
    reference_in,
    fake_in,
)
"""Frames uint8 `[B, T, H, W, 3]` to [-1, 1] in halo layout: sides padded to `multiple` by repeating
the edge, `patch` pixels a side folded into channels ordered (color, y, x). Gives the result and the
kept frames, as `halo.finish_reference` does."""

pixels_out = register(
    "pixels_out(Tensor x, Tensor? added, int x_front, int patch) -> Tensor",
    launch_out,
    reference_out,
    fake_out,
)
"""The way back: to uint8 `[B, T, H, W, 3]`, rounded and cut off at 0 and 255, after adding `added`
`[B, 3, T, H, W]`."""
