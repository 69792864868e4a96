"""Typed model configurations and the named presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from pvtok.errors import CheckpointError, UsageError

Padding = Literal["learnable", "gaussian"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes a PV-VAE (paper, section "Architecture"; widths are ours).

    Levels run from the pixels to the latents. Between two levels lies a halving of height and
    width; the first two halve time as well. `patch_size` > 1 folds that many pixels a side into
    channels first, and takes the place of space-only halvings.
    """

    name: str
    widths: tuple[int, ...]
    """Channels of each level."""
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    """Residual blocks of each level."""
    temporal_taps: tuple[int, ...]
    """Filter length in time of each level's blocks: 3, or 1 where a level works frame by frame."""
    patch_size: int = 1
    latent_channels: int = 64
    residual_shortcuts: bool = True
    """Parameter-free space-to-depth shortcuts around down- and upsampling (Chen et al. 2024,
    "Deep Compression Autoencoder", arXiv 2410.10733)."""
    patch_features: int = 0
    """Features of the linear maps from whole 4x16x16 blocks to the latent level and back, beside
    the convolutions; 0 leaves them out. Fitted to data they make an untrained model an adaptive
    transform codec."""
    patch_experts: int = 64
    """Linear maps between these features and the latents, of which each block takes one: a square
    number. Two latent channels say which."""
    attention: bool = False
    """Per-frame self-attention at the latent level."""
    padding: Padding = "learnable"
    """What stands for latents that are to be predicted (paper: learnable beats Gaussian)."""
    training_frames: int = 17
    """Clip length the model was trained on; predictions further out are rolled out."""
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    """Per-channel statistics of the posterior mean over training data, for normalised reads."""
    norm_eps: float = 1e-6

    temporal_ratio = 4
    spatial_ratio = 16

    def __post_init__(self) -> None:
        if self.patch_size not in (1, 2, 4):
            raise UsageError(f"patch_size = {self.patch_size}", fix="Use 1, 2 or 4.")
        levels = len(self.strides) + 1
        for field in ("widths", "encoder_blocks", "decoder_blocks", "temporal_taps"):
            value = getattr(self, field)
            if len(value) != levels or not all(isinstance(v, int) and v >= 0 for v in value):
                raise UsageError(
                    f"{field} = {value}", why=f"patch_size {self.patch_size} has {levels} levels"
                )
        if min(self.widths) < 1 or self.latent_channels < 1:
            raise UsageError(f"widths = {self.widths}, latent_channels = {self.latent_channels}")
        if self.patch_features:
            if math.isqrt(self.patch_experts) ** 2 != self.patch_experts or self.patch_experts < 4:
                raise UsageError(
                    f"patch_experts = {self.patch_experts}", fix="Use a square number: 16, 64, ..."
                )
            least = max(self.widths[-1], self.latent_channels)
            if self.patch_features < least or self.latent_channels < 3:
                raise UsageError(
                    f"patch_features = {self.patch_features}, "
                    f"latent_channels = {self.latent_channels}",
                    why="features must be at least the last width and the latent channels, "
                    f"{least}; latent channels at least 3",
                )
        if self.residual_shortcuts:
            for fine, coarse, stride in zip(
                self.widths, self.widths[1:], self.strides, strict=False
            ):
                if fine * math.prod(stride) % coarse:
                    raise UsageError(
                        f"widths = {self.widths}",
                        why=f"{fine} * {math.prod(stride)} channels do not divide among {coarse}",
                        fix="Use widths that double, or residual_shortcuts = false.",
                    )
        if not set(self.temporal_taps) <= {1, 3}:
            raise UsageError(f"temporal_taps = {self.temporal_taps}", fix="Use 1 and 3.")
        if self.padding not in ("learnable", "gaussian"):
            raise UsageError(f"padding = {self.padding!r}", fix="Use 'learnable' or 'gaussian'.")
        for field in ("latent_mean", "latent_std"):
            value = getattr(self, field)
            if value is not None and len(value) != self.latent_channels:
                raise UsageError(f"{field} has {len(value)} values for {self.latent_channels}")

    @property
    def block(self) -> tuple[int, int, int]:
        """Frames, rows and columns of pixels that one latent stands for."""
        return (self.temporal_ratio, self.spatial_ratio, self.spatial_ratio)

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """(time, height, width) stride between one level and the next."""
        space_only = {1: 2, 2: 1, 4: 0}[self.patch_size]
        return ((2, 2, 2),) * 2 + ((1, 2, 2),) * space_only

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read a configuration, strictly.

        Raises:
            CheckpointError: keys are unknown or missing, or values do not fit.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
        missing = sorted(required - set(values))
        if unknown or missing:
            raise CheckpointError(
                "the model configuration does not fit",
                why=f"unknown keys {unknown}, missing keys {missing}",
                fix="It may come from another version of pvtok.",
            )
        try:
            typed: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**typed)
        except (TypeError, UsageError) as error:
            raise CheckpointError("the model configuration does not fit", why=str(error)) from error


PRESETS: dict[str, ModelConfig] = {
    # Runs on any CPU: convolutions correct what the adaptive transform leaves.
    "tiny": ModelConfig(
        name="tiny",
        widths=(48, 96, 192),
        encoder_blocks=(1, 1, 0),
        decoder_blocks=(1, 1, 2),
        temporal_taps=(1, 3, 1),
        patch_size=4,
        patch_features=448,
    ),
    "base": ModelConfig(
        name="base",
        widths=(96, 192, 384, 384),
        encoder_blocks=(1, 2, 2, 2),
        decoder_blocks=(2, 2, 3, 3),
        temporal_taps=(3, 3, 3, 3),
        patch_size=2,
        attention=True,
    ),
    "paper": ModelConfig(
        name="paper",
        widths=(96, 192, 384, 768, 768),
        encoder_blocks=(2, 2, 2, 4, 4),
        decoder_blocks=(3, 3, 3, 5, 5),
        temporal_taps=(3, 3, 3, 3, 3),
        attention=True,
    ),
}
