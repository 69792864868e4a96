"""Predictive reconstruction (paper, section "Predictive reconstruction").

Drop the last `k` groups of a clip, encode what is left, put padding latents in the place of the
dropped ones, decode the whole and compare all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvtok.groups import frames_in, whole_groups
from pvtok.model import PVVAE


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss terms; the paper gives none, these are ours."""

    max_drop_ratio: float = 1.0
    """r: at most `floor((G-1) * r)` groups are dropped (paper: 1.0 is best for generation)."""
    difference_weight: float = 1.0
    """Motion-aware term beside a mean squared error of weight 1 (the paper adds them equally)."""
    kl_weight: float = 1e-5
    """Per latent element, in nats. At unit-variance latents this leaves posterior noise about 30 dB
    under the reconstruction error: enough to keep latents bounded, too little to be seen."""


@dataclass(frozen=True)
class Losses:
    """Scalars of one step."""

    total: Tensor
    mse: Tensor
    difference: Tensor
    kl: Tensor


def draw_dropped_groups(groups: int, max_drop_ratio: float, generator: torch.Generator) -> int:
    """k ~ U{0, ..., floor((G-1) * r)}; the first group is always kept."""
    most = int((groups - 1) * max_drop_ratio)
    return int(torch.randint(0, most + 1, (), generator=generator))


def predictive_reconstruction(
    model: PVVAE, x_BCTHW: Tensor, dropped: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Encode all but the last `dropped` groups, pad, decode.

    Returns:
        The whole clip `[B, 3, T, H, W]` and the KL per latent element of the observed latents.
    """
    observed = whole_groups(x_BCTHW.shape[2]) - dropped
    posterior, _ = model.encode_step(x_BCTHW[:, :, : frames_in(observed)])
    z = posterior.sample(generator)
    if dropped:
        z = torch.cat([z, model.padding_latents(z, dropped, generator)], dim=2)
    y, _ = model.decode_step(z)
    return y, posterior.kl()


def predictive_loss(
    model: PVVAE,
    x_BCTHW: Tensor,
    dropped: int,
    config: ObjectiveConfig,
    generator: torch.Generator | None = None,
) -> Losses:
    """The objective over reconstructed and predicted frames alike.

    Args:
        x_BCTHW: clips `[B, 3, 1+4n, H, W]` in [-1, 1].
        dropped: groups to drop, see `draw_dropped_groups`.
    """
    y, kl = predictive_reconstruction(model, x_BCTHW, dropped, generator)
    error = y.float() - x_BCTHW
    mse = error.square().mean()
    # The difference of adjacent frames of y minus that of x is the difference of the errors.
    difference = error.diff(dim=2).square().mean() if x_BCTHW.shape[2] > 1 else mse.new_zeros(())
    total = mse + config.difference_weight * difference + config.kl_weight * kl.mean()
    return Losses(total, mse, difference, kl.mean())
