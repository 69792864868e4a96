"""The adversarial term: a patch discriminator over space and time, its losses and its weight."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pvtok.errors import UsageError

Norm = Literal["spectral", "group", "none"]

MAX_ADAPTIVE_WEIGHT = 1e4
"""As Esser et al.: an adversarial gradient that is next to nothing is not blown up without end."""


class PatchDiscriminator3d(nn.Module):
    """Tells real patches of clips from made ones (Isola et al. 2017, "Image-to-Image Translation
    with Conditional Adversarial Networks"; in 3D as in Ge et al. 2022, TATS).

    Nothing couples the clips of a batch, so processes with a part of it each see what one with all
    of it would. In time, borders repeat the outermost frame, not zeros: an image is to it what a
    clip that stands still is, and any number of frames will do.

    Args:
        width: channels of the first level; they double from level to level, up to eightfold.
        levels: halvings of every axis.
        norm: "spectral" (Miyato et al. 2018), whose power iteration makes one step at each forward
            in training mode and is state (buffers); "group"; or "none".
    """

    def __init__(self, width: int = 64, levels: int = 3, norm: Norm = "spectral") -> None:
        super().__init__()
        if norm not in ("spectral", "group", "none"):
            raise UsageError(f"discriminator_norm = {norm!r}", fix="Use spectral, group or none.")
        self.levels = levels
        widths = [width * min(2**level, 8) for level in range(levels + 1)]
        layers: list[nn.Module] = [_Conv(3, widths[0], 2), nn.LeakyReLU(0.2)]
        for level in range(1, levels + 1):
            layers.append(_Conv(widths[level - 1], widths[level], 2 if level < levels else 1))
            if norm == "group":
                layers.append(nn.GroupNorm(math.gcd(32, widths[level]), widths[level]))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(_Conv(widths[-1], 1, 1))
        if norm == "spectral":
            for layer in layers:
                if isinstance(layer, _Conv):
                    spectral_norm(layer)
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Clips `[B, 3, T, H, W]` in [-1, 1] -> fp32 logits `[B, 1, t, h, w]`, high for real.

        `T >= 1`; H and W are halved `levels` times, and T as well, rounding up.
        """
        if min(x_BCTHW.shape[3:]) < 2**self.levels:
            raise UsageError(
                f"frames of {x_BCTHW.shape[3]}x{x_BCTHW.shape[4]} pixels",
                why=f"a discriminator of {self.levels} levels needs {2**self.levels} a side",
                fix="Lower discriminator_levels.",
            )
        logits: Tensor = self.layers(x_BCTHW)
        return logits.float()


class _Conv(nn.Conv3d):
    """3 frames by 4x4 pixels where it halves, by 3x3 where it does not."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        side = 4 if stride == 2 else 3
        super().__init__(in_channels, out_channels, (3, side, side), stride, (0, 1, 1))
        nn.init.kaiming_normal_(self.weight, a=0.2)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x = torch.cat([x_BCTHW[:, :, :1], x_BCTHW, x_BCTHW[:, :, -1:]], dim=2)
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight  # where spectral norm is computed; CUDA would do it in bf16
        out: Tensor = F.conv3d(x, weight, self.bias, self.stride, self.padding)
        return out


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss (Lim and Ye 2017, "Geometric GAN"): 1 at logits of 0, 0 beyond the margins.

    Args:
        fake_logits: of reconstructions that are detached from the model.
    """
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def generator_loss(fake_logits: Tensor) -> Tensor:
    """The model's part of the hinge loss: falls as reconstructions look real."""
    return -fake_logits.mean()


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor
) -> Tensor:
    """Weight that makes the adversarial gradient as large as that of the other terms, at the
    decoder's last layer (Esser et al. 2021, "Taming Transformers", section 3.1).

    Among processes the gradients are averaged first, so all have the weight of the joint batch.

    Args:
        reconstruction_loss: weighted sum of the terms that reach the decoder.
        last_layer: weight of the decoder's last layer, not sharded.

    Returns:
        Detached scalar in [0, `MAX_ADAPTIVE_WEIGHT`].
    """
    norms: list[Tensor] = []
    for loss in (reconstruction_loss, generator_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        norms.append(_mean_over_processes(gradient.float()).norm())
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=MAX_ADAPTIVE_WEIGHT)


class LeCam(nn.Module):
    """LeCAM regulariser (Tseng et al. 2021, "Regularizing Generative Adversarial Networks under
    Limited Data"): holds the logits of each kind to the running mean of the other's.

    One-sided, as in its authors' code: what counts is how far the two lie apart. The means begin at
    0, an untrained discriminator's logits, and are state that checkpoints must save (buffers).
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The penalty, against the means so far; then takes the logits into the means."""
        penalty = (
            F.relu(real_logits - self.fake).square().mean()
            + F.relu(self.real - fake_logits).square().mean()
        )
        means = torch.stack([real_logits.detach().mean(), fake_logits.detach().mean()])
        means = _mean_over_processes(means)
        # New tensors, not in place: the old ones may be in a graph still.
        self.real = self.real.lerp(means[0], 1 - self.decay)
        self.fake = self.fake.lerp(means[1], 1 - self.decay)
        return penalty


def _mean_over_processes(value: Tensor) -> Tensor:
    """Mean over processes, which all hold batches of the same size; alone, the value itself."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
