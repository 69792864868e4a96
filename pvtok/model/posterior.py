"""Diagonal Gaussian posterior over latents (Kingma and Welling 2013, arXiv 1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass

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

    def sample(self, noise_BCTHW: Tensor) -> Tensor:
        """Mean + std * noise, for standard normal noise of the mean's shape."""
        return self.mean + (0.5 * self.logvar).exp() * noise_BCTHW.to(self.mean)

    def kl(self) -> Tensor:
        """KL divergence from the standard normal, in nats, per latent element (same shape)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)
