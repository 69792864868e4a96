"""Predictive reconstruction (paper, section "Predictive reconstruction").

Drop the last `k` groups of a clip, encode what is left, put padding latents in the place of the
dropped ones, decode the whole and compare all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pvtok.groups import frames_in, whole_groups
from pvtok.model import PVVAE


def draw_dropped_groups(groups: int, max_drop_ratio: float, generator: torch.Generator) -> int:
    """k ~ U{0, ..., floor((G-1) * r)}; the first group is always kept.

    r is `max_drop_ratio`; the paper finds 1.0 best for generation.
    """
    most = int((groups - 1) * max_drop_ratio)
    return int(torch.randint(0, most + 1, (), generator=generator))


def predictive_reconstruction(
    model: PVVAE,
    x_BCTHW: Tensor,
    dropped: int,
    noise_BCthw: Tensor | None = None,
    padding_noise_BCkhw: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode all but the last `dropped` groups, pad, decode.

    Args:
        x_BCTHW: clips `[B, 3, 1 + 4n, H, W]` in [-1, 1].
        dropped: groups to drop, `0 <= dropped < 1 + n`.
        noise_BCthw: standard normal noise for the posterior's sample, of the observed latents'
            shape; None takes the mean.
        padding_noise_BCkhw: noise to put in the dropped groups' place, for a model with Gaussian
            padding; None draws it.

    Returns:
        The whole clip `[B, 3, T, H, W]` and the KL per latent element of the observed latents.
    """
    observed = whole_groups(x_BCTHW.shape[2]) - dropped
    posterior, _ = model.encode_step(x_BCTHW[:, :, : frames_in(observed)])
    z = posterior.mean if noise_BCthw is None else posterior.sample(noise_BCthw)
    if dropped:
        padding = model.padding_latents(z, dropped, noise_BCkhw=padding_noise_BCkhw)
        z = torch.cat([z, padding], dim=2)
    y, _ = model.decode_step(z)
    return y, posterior.kl()
