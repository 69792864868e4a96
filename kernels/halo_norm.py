"""RMS norm and SiLU in halo layout, where no convolution before it could do it on the way out."""

import triton
import triton.language as tl
from torch import Tensor

from pvtok.kernels.epilogue import finish
from pvtok.kernels.halo import finish_reference, interior
from pvtok.kernels.registration import Buffers, boxes, buffers, register
from pvtok.kernels.tiles import Tile, tile_for


@triton.jit(do_not_specialize=["T", "H", "W", "x_front", "channels"])
def norm_kernel(
    x_desc,  # [B, (x_front + T) * S, C]
    gain_ptr,
    out_desc,
    past_desc,
    keep_desc,
    T,
    H,
    W,
    x_front,
    eps,
    channels,
    C: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """`BM` rows of the output buffer, its past among them."""
    start = tl.program_id(0) * BM
    batch = tl.program_id(1)
    S = (H + 1) * (W + 1)
    x = x_desc.load([batch, start + (x_front - K) * S, 0]).reshape(BM, BN).to(tl.float32)
    finish(
        x, start, batch, 0, gain_ptr, out_desc, None, past_desc, keep_desc,
        T, H, W, eps, channels, C, K, KEEP, BM, BN,
    )  # fmt: skip


def launch(
    x: Tensor,
    gain: Tensor,
    past: Tensor | None,
    x_front: int,
    front: int,
    keep: int,
    eps: float,
    channels: int,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel, with the table's tile unless another is given (the tile search does)."""
    out = allocate(x, x_front, front, keep)
    B, frames, H1, W1, C = x.shape
    T = frames - x_front
    tile = tile or tile_for("norm", x, out.out, 1, 1, normed=True)
    norm_kernel[(triton.cdiv((front + T) * H1 * W1, tile.m), B)](
        boxes(x, tile),
        gain,
        boxes(out.out, tile),
        boxes(past, tile),
        boxes(out.keep, tile),
        T,
        H1 - 1,
        W1 - 1,
        x_front,
        eps,
        channels,
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


def allocate(x: Tensor, x_front: int, front: int, keep: int) -> Buffers:
    B, frames, H1, W1, C = x.shape
    return buffers(x, (B, frames - x_front, H1, W1, C), front, keep, False)


def reference(
    x: Tensor,
    gain: Tensor,
    past: Tensor | None,
    x_front: int,
    front: int,
    keep: int,
    eps: float,
    channels: int,
) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, in fp32 but for the roundings to the input's dtype."""
    value = interior(x, x_front).float()
    out, _, kept = finish_reference(
        value, x.dtype, gain, eps, channels, past, front, keep, raw=False
    )
    return out, kept


def fake(*args: object) -> tuple[Tensor, Tensor]:
    x, x_front, front, keep = args[0], args[3], args[4], args[5]
    results = allocate(x, x_front, front, keep).results()  # type: ignore[arg-type]
    return results[0], results[2]


norm = register(
    "halo_norm(Tensor x, Tensor gain, Tensor? past, int x_front, int front, int keep, float eps, "
    "int channels) -> (Tensor, Tensor)",
    launch,
    reference,
    fake,
)
"""RMS norm over channels, then SiLU; gives the result and the kept frames, as
`halo.finish_reference` does."""
