"""The check passes what is right and refuses what is wrong, however little."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pvtok.bench.contenders import OurFamily, StepsCodec, our_contender
from pvtok.bench.gate import TOLERANCES, Reference, Verdict, check
from pvtok.scenes import render_scene
from pvtok.steps import TorchSteps
from tests.models import small_model


class Altered:
    """A codec whose outputs are changed."""

    def __init__(
        self, inner: StepsCodec, z: Callable[[Tensor], Tensor], y: Callable[[Tensor], Tensor]
    ) -> None:
        self.inner, self.z, self.y = inner, z, y
        self.finite: Tensor | None = None

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        return self.z(self.inner.encode(frames_BTHWC).clone())

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        y = self.y(self.inner.decode(z_BCTHW).clone())
        self.finite = self.inner.finite
        return y


def verdict(
    z: Callable[[Tensor], Tensor] = lambda z: z,
    y: Callable[[Tensor], Tensor] = lambda y: y,
    *,
    dtype: torch.dtype = torch.float32,
) -> Verdict:
    frames = torch.from_numpy(next(iter(render_scene(3, 5, 64, 64))))[None]
    plain = StepsCodec(TorchSteps(small_model("patch2")))
    latents = plain.encode(frames)
    reference = Reference(latents, plain.decode(latents), torch.float32)
    inner = StepsCodec(TorchSteps(small_model("patch2", dtype=dtype)))
    return check(Altered(inner, z, y), dtype, frames, reference)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_is_right_passes(dtype: torch.dtype) -> None:
    found = verdict(dtype=dtype)
    assert found.passed, found.text
    assert found.text.startswith("passed")


def _corner(z: Tensor) -> Tensor:
    z[..., 0, 0] *= 1.05
    return z


def _last_row(y: Tensor) -> Tensor:
    y[:, -1, -2:] = 0
    return y


def _nan(z: Tensor) -> Tensor:
    z[0, 0, 0, 0, 0] = torch.nan
    return z


@pytest.mark.parametrize(
    ("z", "y", "says"),
    [
        (_corner, lambda y: y, "latents off"),
        (lambda z: z, _last_row, "dB"),
        (_nan, lambda y: y, "latents are not finite"),
        (lambda z: z[:, :, :-1], lambda y: y, "latents (1, 8, 1, 4, 4), not (1, 8, 2, 4, 4)"),
        (lambda z: z, lambda y: y[:, :, :, :-1], "frames (1, 5, 64, 63, 3)"),
        (lambda z: z.roll(1, 2), lambda y: y, "latents off"),
    ],
)
def test_what_is_wrong_fails(
    z: Callable[[Tensor], Tensor], y: Callable[[Tensor], Tensor], says: str
) -> None:
    found = verdict(z, y)
    assert not found.passed
    assert found.text.startswith("failed: ")
    assert says in found.text


def test_frames_that_were_not_finite_fail() -> None:
    codec = StepsCodec(TorchSteps(small_model("patch2")))
    frames = torch.from_numpy(next(iter(render_scene(3, 5, 32, 32))))[None]
    z = codec.encode(frames)
    reference = Reference(z, codec.decode(z), torch.float32)
    with torch.no_grad():
        codec.steps.net.decoder.conv_out.bias[0] = torch.inf  # type: ignore[attr-defined]
    found = check(codec, torch.float32, frames, reference)
    assert not found.passed
    assert "frames are not finite" in found.text


@pytest.fixture(scope="module")
def tiny() -> tuple[OurFamily, Tensor, Reference]:
    """The bundled model's reference of one clip."""
    family = OurFamily("tiny", 0)
    frames = torch.from_numpy(next(iter(render_scene(0, 5, 64, 64))))[None]
    with torch.inference_mode():
        return family, frames, family.reference(frames, torch.float32)


@torch.inference_mode()
def test_experts_that_keep_a_block_as_well_pass(tiny: tuple[OurFamily, Tensor, Reference]) -> None:
    family, frames, reference = tiny
    codec = our_contender(family.tokenizer(frames.device, torch.bfloat16), family, "torch").codec
    found = check(codec, torch.bfloat16, frames, reference)
    assert found.passed, found.text


@torch.inference_mode()
def test_an_expert_that_does_not_fails(tiny: tuple[OurFamily, Tensor, Reference]) -> None:
    family, frames, reference = tiny
    codec = our_contender(family.tokenizer(frames.device, torch.float32), family, "torch").codec
    assert isinstance(codec, StepsCodec)

    def elsewhere(z: Tensor) -> Tensor:
        z[:, -2:, :, 0, 0] *= -1  # one block of sixteen, on the other side of the grid
        return z

    found = check(Altered(codec, elsewhere, lambda y: y), torch.float32, frames, reference)
    assert not found.passed
    assert "6.2% of blocks took another expert" in found.text

    def nowhere(z: Tensor) -> Tensor:
        z[:, -2:] += 9
        return z

    assert not check(Altered(codec, nowhere, lambda y: y), torch.float32, frames, reference).passed
