"""What is known of a store before its first latent: the model, the source, the geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from pvtok import __version__
from pvtok.errors import UsageError
from pvtok.groups import TAIL_POLICIES, TailPolicy
from pvtok.store.counts import is_segment
from pvtok.store.documents import Document, plain, shown, take

_LIMIT = 2**31
"""Sizes and ratios stay below this, so that their products fit in 64 bits."""


@dataclass(frozen=True)
class StoreMeta:
    """Everything a store says about its latents that is known before the first of them.

    Raises:
        UsageError: a value that cannot be, or values that contradict each other.
    """

    model_name: str
    model_sha256: str
    model_config: dict[str, Any]
    channels: int
    latent_height: int
    latent_width: int
    temporal_ratio: int
    """Frames per latent frame after the first."""
    spatial_ratio: int
    """Pixels per latent position, in each direction."""
    fps: Fraction
    """Frames per second; the mean rate where `timestamps` are kept."""
    width: int
    """True width in pixels, without padding."""
    height: int
    crop: tuple[int, int, int, int]
    """Padding around the true picture in pixels: left, top, right, bottom."""
    tail: TailPolicy
    source: dict[str, Any]
    """What was encoded: `name` (no folders), `fingerprint`, ... May be empty."""
    latent_mean: list[float] | None
    """Per channel, of the raw latents; None where the model has none."""
    latent_std: list[float] | None
    color: dict[str, Any]
    """How the colours of the source were handled."""
    compute_dtype: str
    segment: int | None = None
    """Frames after which the stream starts afresh (`1 + temporal_ratio*m`); None = one stream."""
    extra: dict[str, Any] = field(default_factory=dict)
    tool_version: str = __version__

    def __post_init__(self) -> None:
        for name in ("model_name", "model_sha256", "compute_dtype", "tool_version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise UsageError(f"{name} must be a text, not {shown(value)}")
        for name in (
            "channels",
            "latent_height",
            "latent_width",
            "temporal_ratio",
            "spatial_ratio",
            "width",
            "height",
        ):
            _positive(name, getattr(self, name))
        for name in ("model_config", "source", "color", "extra"):
            _json_object(name, getattr(self, name))
        if not isinstance(self.fps, Fraction) or self.fps <= 0:
            raise UsageError(f"fps must be a positive Fraction, not {shown(self.fps)}")
        if self.tail not in TAIL_POLICIES:
            raise UsageError(f"tail must be one of {TAIL_POLICIES}, not {shown(self.tail)}")
        if "/" in str(self.source.get("name", "")):
            raise UsageError(f"source name {self.source['name']!r} must be without folders")
        self._check_segment()
        self._check_crop()
        self._check_statistics()

    def _check_segment(self) -> None:
        if self.segment is None:
            return
        _positive("segment", self.segment)
        if not is_segment(self.segment, self.temporal_ratio):
            raise UsageError(f"segment {self.segment} is not 1 + {self.temporal_ratio}m frames")

    def _check_crop(self) -> None:
        if len(self.crop) != 4 or not all(type(n) is int and 0 <= n < _LIMIT for n in self.crop):
            raise UsageError(f"crop must be four paddings >= 0, not {shown(self.crop)}")
        left, top, right, bottom = self.crop
        padded = (left + self.width + right, top + self.height + bottom)
        covered = (self.latent_width * self.spatial_ratio, self.latent_height * self.spatial_ratio)
        if padded != covered:
            raise UsageError(
                f"{self.width}x{self.height} with padding {self.crop} is {padded[0]}x{padded[1]}",
                why=f"the latents cover {covered[0]}x{covered[1]}",
            )

    def _check_statistics(self) -> None:
        if (self.latent_mean is None) != (self.latent_std is None):
            raise UsageError("latent_mean and latent_std must be given together")
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != self.channels:
                raise UsageError(f"{name} has {len(values)} values for {self.channels} channels")
            for value in values:
                if not _is_finite(value) or (name == "latent_std" and value <= 0):
                    raise UsageError(f"{name} holds {shown(value)}")

    def to_document(self) -> Document:
        """The JSON form, as it stands in the store's attributes."""
        return {
            "model": {
                "name": self.model_name,
                "sha256": self.model_sha256,
                "config": plain(self.model_config),
            },
            "normalized": False,
            "latent_mean": _floats(self.latent_mean),
            "latent_std": _floats(self.latent_std),
            "channels": self.channels,
            "latent_height": self.latent_height,
            "latent_width": self.latent_width,
            "temporal_ratio": self.temporal_ratio,
            "spatial_ratio": self.spatial_ratio,
            "segment": self.segment,
            "tail": self.tail,
            "width": self.width,
            "height": self.height,
            "crop": list(self.crop),
            "fps": [self.fps.numerator, self.fps.denominator],
            "color": plain(self.color),
            "source": plain(self.source),
            "compute_dtype": self.compute_dtype,
            "extra": plain(self.extra),
            "tool_version": self.tool_version,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> StoreMeta:
        """Read the JSON form back.

        Raises:
            ValueError: a key is missing, of a wrong type, or contradicts another
                (`UsageError` is a ValueError).
        """
        if take(document, "normalized", bool):
            raise ValueError("'normalized' must be false: stores of version 1 keep raw latents")
        model = take(document, "model", dict)
        crop, fps = take(document, "crop", list), take(document, "fps", list)
        if len(fps) != 2 or not all(type(n) is int and n > 0 for n in fps):
            raise ValueError(f"'fps' must be [numerator, denominator], not {shown(fps)}")
        return cls(
            model_name=take(model, "name", str),
            model_sha256=take(model, "sha256", str),
            model_config=take(model, "config", dict),
            channels=take(document, "channels", int),
            latent_height=take(document, "latent_height", int),
            latent_width=take(document, "latent_width", int),
            temporal_ratio=take(document, "temporal_ratio", int),
            spatial_ratio=take(document, "spatial_ratio", int),
            fps=Fraction(fps[0], fps[1]),
            width=take(document, "width", int),
            height=take(document, "height", int),
            crop=tuple(crop),  # length and types are checked in StoreMeta
            tail=take(document, "tail", str),  # type: ignore[arg-type]  # checked likewise
            source=take(document, "source", dict),
            latent_mean=_optional(document, "latent_mean", list),
            latent_std=_optional(document, "latent_std", list),
            color=take(document, "color", dict),
            compute_dtype=take(document, "compute_dtype", str),
            segment=_optional(document, "segment", int),
            extra=take(document, "extra", dict),
            tool_version=take(document, "tool_version", str),
        )


def _positive(name: str, value: object) -> None:
    if type(value) is not int or not 0 < value < _LIMIT:
        raise UsageError(f"{name} must be a whole number of at least 1, not {shown(value)}")


def _json_object(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{name} must be a dict, not {shown(value)}")
    try:
        plain(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be written as JSON", why=str(error)) from error


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _floats(values: list[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _optional(document: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    return None if key in document and document[key] is None else take(document, key, kind)
