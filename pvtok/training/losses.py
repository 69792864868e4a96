"""The loss of one training step: terms over whole clips, and their weighted sum.

`lambda_rec * (L_MSE + L_Diff) + lambda_lpips * L_LPIPS + lambda_gan * L_GAN + lambda_kl * L_KL`
(paper, section "Predictive reconstruction"). Every term covers reconstructed and predicted frames
alike. Values are in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from pvtok.errors import UsageError

RELATIVE_FLOOR = 1e-4
"""Mean squared error, for values in [-1, 1], below which relative errors no longer grow: 46 dB."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the loss terms; the paper gives none, these are ours."""

    mse: float = 1.0
    """Mean squared error: the unit that the other weights are measured in."""
    difference: float = 1.0
    """Motion-aware term, the squared error of the differences of adjacent frames. The paper adds
    the two with equal weight."""
    relative: bool = False
    """Divide every frame's error by its own size (not differentiated): the gradient is that of the
    mean log error, so of mean PSNR, and easy and hard, seen and predicted frames weigh alike. It
    is what a small budget needs: the gradient's variance is no longer that of the hardest clips.
    The sum of both squared errors is then about 1 instead of 0.01, so weights of other terms that
    were chosen without it want multiplying by a hundred."""
    kl: float = 1e-5
    """Per latent element, in nats. At unit-variance latents this leaves posterior noise about 30 dB
    under the reconstruction error: enough to keep latents bounded, too little to be seen."""

    lpips: float = 0.0
    """Off, because it needs a file that does not ship with the package. To begin with, 0.1: the
    paper's models have an LPIPS of 0.02 at 32 dB, where the squared error is 0.0025, so a tenth of
    the one weighs about as much as the other. A guess, not measured."""
    lpips_net: Literal["vgg", "alex"] = "vgg"
    """LPIPS's authors name VGG16 for optimising and AlexNet for measuring; it costs a twentieth."""
    lpips_weights: str | None = None
    """Backbone weights, .pth or .safetensors; None looks in torch's hub cache."""
    lpips_frames: int = 4
    """Frames of a clip that a step compares, drawn anew each step; 0 is all. Adjacent frames look
    alike, so a quarter of 17 says nearly as much as all of them at a quarter of the cost."""

    adversarial: float = 0.0
    """Off: it trades PSNR for sharpness, which is worth it only once a model reconstructs well. To
    begin with, 0.1: with adaptive weighting its gradient at the decoder's last layer is then a
    tenth of that of the other terms, so they stay in charge. A guess, not measured."""
    adversarial_start: int = 5000
    """Step of the whole run from which on there is an adversarial term (paper: 5,000)."""
    adversarial_weighting: Literal["adaptive", "fixed"] = "adaptive"
    """Adaptive: the weight is relative to the other terms' gradient, see
    `adversarial.adaptive_weight`. Fixed: it is taken as it stands."""
    discriminator_width: int = 64
    """Channels of the first level, as in Isola et al. 2017; later levels double them up to 8x."""
    discriminator_levels: int = 3
    """Halvings of each axis; 3 makes patches of 54 pixels a side and all of 17 frames."""
    discriminator_norm: Literal["spectral", "group", "none"] = "spectral"
    """What keeps it in bounds. Spectral norm limits its slope, which is what hinge losses need."""
    lecam: float = 0.0
    """Weight of the LeCAM regulariser, in the unit of the hinge loss. Off: it is made for data so
    scarce that the discriminator learns it by heart. There, to begin with, 0.01."""

    def __post_init__(self) -> None:
        for name in ("mse", "difference", "kl", "lpips", "adversarial", "lecam"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} = {value}", why="a weight is finite and not negative")
        for name, least in (
            ("lpips_frames", 0),
            ("adversarial_start", 0),
            ("discriminator_width", 1),
            ("discriminator_levels", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} = {getattr(self, name)}", why=f"the least is {least}")
        for name, choices in (
            ("lpips_net", ("vgg", "alex")),
            ("adversarial_weighting", ("adaptive", "fixed")),
            ("discriminator_norm", ("spectral", "group", "none")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r}", fix=f"Use {' or '.join(choices)}."
                )


@dataclass(frozen=True)
class Terms:
    """A sum of weighted terms, and each of them as it is before weighting."""

    total: Tensor
    """Scalar to minimise."""
    values: dict[str, Tensor]
    """Name -> detached scalar, for the log."""

    def plus(self, name: str, value: Tensor, weight: float | Tensor) -> Terms:
        """With one more term. One of weight 0 is logged only, so not even its NaN gets through."""
        off = isinstance(weight, float) and weight == 0
        total = self.total if off else self.total + weight * value
        return Terms(total, self.values | {name: value.detach()})


def reconstruction_terms(y_BCTHW: Tensor, x_BCTHW: Tensor, config: LossConfig) -> Terms:
    """Squared error of frames (`mse`) and of their changes (`difference`).

    Args:
        y_BCTHW: reconstruction `[B, 3, T, H, W]`, any floating type; computed in fp32.
        x_BCTHW: the clips, in [-1, 1]. A single image has no changes: its difference is 0.
    """
    error = y_BCTHW.float() - x_BCTHW
    mse_BT = error.square().mean((1, 3, 4))
    # The difference of adjacent frames of y minus that of x is the difference of the errors.
    difference_BT = F.pad(error.diff(dim=2).square().mean((1, 3, 4)), (1, 0))
    total_BT = config.mse * mse_BT + config.difference * difference_BT
    if config.relative:
        total_BT = total_BT / (mse_BT.detach() + RELATIVE_FLOOR)
    steps = max(x_BCTHW.shape[2] - 1, 1)
    return Terms(
        total_BT.mean(),
        {
            "mse": mse_BT.detach().mean(),
            "difference": difference_BT.detach().sum(1).mean() / steps,
        },
    )
