"""Diagonal Gaussian posterior over latents (Kingma and Welling 2013, arXiv 1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)
"""exp stays finite in fp32 and half precision never sees an infinite variance."""


@dataclass(frozen=True)
class Posterior:
    """Mean and log-variance, `[B, C, t, h, w]` each."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments_BCTHW: Tensor) -> Posterior:
        """Split an encoder's output of `2C` channels."""
        mean, logvar = moments_BCTHW.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents: mean + std * standard normal noise."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal, in nats, per latent element (same shape)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)
