"""The best linear video code of the latents' size, and a model that starts as it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvtok.groups import FramesTHWC
from pvtok.model import PVVAE
from pvtok.model.resample import Stride, space_to_depth


@dataclass(frozen=True)
class PatchPCA:
    """Principal components of `pt x ps x ps` blocks of pixels in [-1, 1], strongest first.

    Block elements are ordered as `space_to_depth` orders channels.
    """

    mean: Tensor  # [D]
    basis: Tensor  # [D, N], orthonormal columns
    variance: Tensor  # [N]


def fit_patch_pca(
    clips: Iterable[FramesTHWC], block: Stride, components: int, blocks_per_clip: int, seed: int
) -> PatchPCA:
    """Fit on random blocks of each clip `[T, H, W, 3]` uint8 (exact covariance, in float64)."""
    generator = np.random.default_rng(seed)
    size = 3 * block[0] * block[1] * block[2]
    total, outer, count = np.zeros(size), np.zeros((size, size)), 0
    for clip in clips:
        T, H, W = (n // b * b for n, b in zip(clip.shape[:3], block, strict=True))
        if not T:
            continue
        x = torch.from_numpy(np.ascontiguousarray(clip[:T, :H, :W])).permute(3, 0, 1, 2)[None]
        rows = space_to_depth(x, block)[0].flatten(1).T.numpy()
        picked = generator.permutation(len(rows))[:blocks_per_clip]
        rows = rows[picked].astype(np.float32) / 127.5 - 1.0
        total += rows.sum(0)
        outer += rows.T @ rows
        count += len(rows)
    mean = total / count
    variance, basis = np.linalg.eigh(outer / count - np.outer(mean, mean))
    order = np.argsort(variance)[::-1][:components]
    return PatchPCA(
        torch.from_numpy(mean).float(),
        torch.from_numpy(basis[:, order].copy()).float(),
        torch.from_numpy(variance[order].copy()).float(),
    )


@torch.no_grad()
def start_linear(model: PVVAE, pca: PatchPCA) -> None:
    """Make an untrained model with a patch shortcut equal the linear code.

    Everything beside the shortcut starts as zero or the identity. Components are whitened, so
    every latent channel has unit variance; those beyond the latent channels are seen by the latent
    level only, which may learn to tell them from the context.
    """
    embed, head = model.encoder.patch_embed, model.decoder.patch_head
    if embed is None or head is None:
        raise ValueError(f"model {model.config.name!r} has no patch shortcut")
    width = model.config.widths[-1]
    if pca.basis.shape[1] != width:
        raise ValueError(f"{pca.basis.shape[1]} components for width {width}")
    std = pca.variance.sqrt()
    embed.linear.weight.copy_((pca.basis / std).T)
    embed.linear.bias.copy_(-(pca.mean @ (pca.basis / std)))
    head.linear.weight.copy_(pca.basis * std)
    head.linear.bias.copy_(pca.mean)
    for conv in (model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out):
        conv.zero_()
