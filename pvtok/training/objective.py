"""Predictive reconstruction (paper, section "Predictive reconstruction").

Drop the last `k` groups of a clip, encode what is left, put padding latents in the place of the
dropped ones, decode the whole and compare all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtok.groups import frames_in, whole_groups
from pvtok.model import PVVAE

RELATIVE_FLOOR = 1e-4
"""Mean squared error, for values in [-1, 1], below which relative errors no longer grow: 46 dB."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss terms; the paper gives none, these are ours."""

    difference_weight: float = 1.0
    """Motion-aware term beside a mean squared error of weight 1 (the paper adds them equally)."""
    relative: bool = False
    """Divide every frame's error by its own size (not differentiated): the gradient is that of the
    mean log error, so of mean PSNR, and easy and hard, seen and predicted frames weigh alike. It
    is what a small budget needs: the gradient's variance is no longer that of the hardest clips."""
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
    """k ~ U{0, ..., floor((G-1) * r)}; the first group is always kept.

    r is `max_drop_ratio`; the paper finds 1.0 best for generation.
    """
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
    mse_BT = error.square().mean((1, 3, 4))
    # The difference of adjacent frames of y minus that of x is the difference of the errors.
    difference_BT = F.pad(error.diff(dim=2).square().mean((1, 3, 4)), (1, 0))
    total_BT = mse_BT + config.difference_weight * difference_BT
    if config.relative:
        total_BT = total_BT / (mse_BT.detach() + RELATIVE_FLOOR)
    total = total_BT.mean() + config.kl_weight * kl.mean()
    steps = max(x_BCTHW.shape[2] - 1, 1)
    return Losses(total, mse_BT.mean(), difference_BT.sum(1).mean() / steps, kl.mean())
