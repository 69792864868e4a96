"""No speed without a check: a contender's output against the plain definition in fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pvtok.bench.timing import Run


class Codec(Protocol):
    """Whole clips to latents and back, which is what is checked and timed."""

    finite: Tensor | None
    """Whether all that was last decoded was finite before it was rounded; None if not known."""

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """Frames uint8 `[B, T, H, W, 3]` -> latents `[B, C, t, h, w]`."""

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents -> frames uint8 `[B, T, H', W', 3]`, sides whole latents."""


@dataclass(frozen=True)
class Reference:
    """What the plain definition makes of the clips."""

    z_BCTHW: Tensor
    """fp32."""
    frames_BTHWC: Tensor
    """Decoded from `z_BCTHW`."""
    dtype: torch.dtype
    """What it was computed in: fp32, or the contenders' own where fp32 did not fit."""
    places: tuple[int, float] | None = None
    """For models whose last so many latent channels say which expert a block took: how many, and
    the distance between places. Many a block is kept as well by one expert as by another, and
    rounding decides: what counts is how well the clips are kept."""


@dataclass(frozen=True)
class Tolerance:
    latents: float
    """Largest RMS error relative to the latents' RMS."""
    psnr: float
    """Least PSNR of decoded frames, dB."""


TOLERANCES = {
    torch.float32: Tolerance(1e-3, 60.0),
    torch.float16: Tolerance(1e-2, 50.0),
    torch.bfloat16: Tolerance(5e-2, 40.0),
}
MOST_MOVED = 0.5
"""Share of blocks that may take another expert than the reference's."""
MOST_LOST = 0.1
"""dB of reconstruction PSNR that a contender which moved some may lose to the reference."""


@dataclass(frozen=True)
class Verdict:
    passed: bool
    text: str


def check(codec: Codec, dtype: torch.dtype, frames_BTHWC: Tensor, reference: Reference) -> Verdict:
    """Encode the clips and decode the reference's latents; compare both with the reference's."""
    limits = TOLERANCES[dtype]
    own = codec.encode(frames_BTHWC)
    z = own.float()
    y = codec.decode(reference.z_BCTHW.to(dtype))
    for name, got, wanted in (
        ("latents", z, reference.z_BCTHW),
        ("frames", y, reference.frames_BTHWC),
    ):
        if got.shape != wanted.shape:
            return Verdict(False, f"failed: {name} {tuple(got.shape)}, not {tuple(wanted.shape)}")
    if not bool(torch.isfinite(z).all()):
        return Verdict(False, "failed: latents are not finite")
    if codec.finite is not None and not bool(codec.finite):
        return Verdict(False, "failed: frames are not finite")
    error, moved = latent_error(z, reference)
    found = psnr(y, reference.frames_BTHWC)
    passed = error <= limits.latents and found >= limits.psnr and moved <= MOST_MOVED
    text = (
        f"latents off by {error:.1e} (at most {limits.latents:.0e}), "
        f"frames at {found:.1f} dB (at least {limits.psnr:.0f})"
    )
    if moved:
        _, _, H, W, _ = frames_BTHWC.shape
        kept, best = (
            psnr(decoded[:, :, :H, :W], frames_BTHWC)
            for decoded in (codec.decode(own), reference.frames_BTHWC)
        )
        passed = passed and best - kept <= MOST_LOST
        text += (
            f", {moved:.1%} of blocks took another expert (at most {MOST_MOVED:.0%}), "
            f"which lost {best - kept:.3f} dB (at most {MOST_LOST})"
        )
    against = str(reference.dtype).removeprefix("torch.")
    return Verdict(passed, f"{'passed' if passed else 'failed'}: {text}, against {against}")


def latent_error(z_BCTHW: Tensor, reference: Reference) -> tuple[float, float]:
    """Relative RMS error over blocks that took the same expert, and the share that did not."""
    wanted = reference.z_BCTHW
    same = torch.ones_like(wanted[:, :1], dtype=torch.bool)
    if reference.places:
        channels, step = reference.places
        off = (z_BCTHW[:, -channels:] - wanted[:, -channels:]).abs()
        same = (off < step / 2).all(1, keepdim=True)
    error = ((z_BCTHW - wanted) * same).square().sum() / (wanted * same).square().sum()
    return math.sqrt(float(error)), 1.0 - float(same.float().mean())


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR of uint8 frames, dB; infinite where they are the same."""
    error = float((a.float() - b.float()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def stage_run(codec: Codec, stage: str, frames_BTHWC: Tensor, z_BCTHW: Tensor) -> Run:
    """One iteration of a stage: a whole clip from uint8 to latents, back, or both."""
    if stage == "encode":
        return lambda: codec.encode(frames_BTHWC)
    if stage == "decode":
        return lambda: codec.decode(z_BCTHW)
    return lambda: codec.decode(codec.encode(frames_BTHWC))
