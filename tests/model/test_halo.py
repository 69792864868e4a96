"""The model's steps on the kernels against its plain steps, and what they are made of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.configs import ModelConfig
from pvtok.kernels.tiles import MAX_NORMED
from pvtok.model import PVVAE
from pvtok.model.halo import HaloSteps
from pvtok.steps import Steps, TorchSteps
from tests.models import SMALL, small_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clip(frames: int, height: int = 14, width: int = 30, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (batch, frames, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(DEVICE)


@torch.inference_mode()
def encoded(steps: Steps, frames: Tensor, plan: list[int]) -> Tensor:
    state, parts = None, []
    for chunk in frames.split(plan, dim=1):
        z, state = steps.encode(chunk, state)
        parts.append(z)
    return torch.cat(parts, dim=2)


@torch.inference_mode()
def decoded(steps: Steps, z: Tensor, plan: list[int]) -> Tensor:
    state, parts = None, []
    for chunk in z.split(plan, dim=2):
        frames, finite, state = steps.decode(chunk, state)
        assert bool(finite)
        parts.append(frames)
    return torch.cat(parts, dim=1)


def largest(x: Tensor) -> float:
    return float(x.abs().max())


def byte_difference(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_steps_equal_the_plain_ones(name: str) -> None:
    """A first step and a later one, of frames whose sides are no multiples of 16."""
    net = small_model(name).to(DEVICE).prepare_inference()
    halo, plain = HaloSteps(net), TorchSteps(net)
    frames = clip(9)
    z, want = encoded(halo, frames, [5, 4]), encoded(plain, frames, [5, 4])
    assert z.shape == (1, net.config.latent_channels, 3, 1, 2)
    assert largest(z - want) <= 1e-5 * largest(want)
    there, back = decoded(plain, want, [2, 1]), decoded(halo, want, [2, 1])
    assert back.shape == (1, 9, 16, 32, 3)
    assert int(there.max()) - int(there.min()) > 100
    assert byte_difference(back, there) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_batches_and_images(name: str) -> None:
    net = small_model(name).to(DEVICE).prepare_inference()
    halo, plain = HaloSteps(net), TorchSteps(net)
    for frames, plan in ((clip(1), [1]), (clip(5, 16, 16, batch=2), [1, 4])):
        want = encoded(plain, frames, plan)
        assert largest(encoded(halo, frames, plan) - want) <= 1e-5 * largest(want)
        latents = [1] * len(plan)
        there = decoded(plain, want, latents)
        assert byte_difference(decoded(halo, want, latents), there) <= 1


def test_halves_are_no_worse_than_in_plain_operations() -> None:
    """Both differ from fp32 by roundings; the kernels round less often."""
    name = "plain"
    exact = TorchSteps(small_model(name).to(DEVICE).prepare_inference())
    net = small_model(name, dtype=torch.float16).to(DEVICE).prepare_inference()
    halo, plain = HaloSteps(net), TorchSteps(net)
    frames = clip(5, 16, 16)
    want = encoded(exact, frames, [1, 4])
    ours = largest(encoded(halo, frames, [1, 4]).float() - want)
    theirs = largest(encoded(plain, frames, [1, 4]).float() - want)
    assert 0 < ours <= 2 * theirs
    assert ours < 0.02 * largest(want)
    there = decoded(exact, want, [1, 1])
    assert byte_difference(decoded(halo, want.half(), [1, 1]), there) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_any_chunk_plan_gives_the_same(name: str) -> None:
    net = small_model(name).to(DEVICE).prepare_inference()
    halo, frames = HaloSteps(net), clip(9, 16, 16)
    whole = encoded(halo, frames, [9])
    tolerance = 0.0 if DEVICE.type == "cuda" else 1e-5 * largest(whole)
    pictures = decoded(halo, whole, [3])
    for plan, latents in (([1, 4, 4], [1, 1, 1]), ([1, 8], [1, 2]), ([5, 4], [2, 1])):
        assert largest(encoded(halo, frames, plan) - whole) <= tolerance
        assert byte_difference(decoded(halo, whole, latents), pictures) <= (tolerance > 0)


@pytest.mark.parametrize("direction", [pytest.param("encode", marks=pytest.mark.slow), "decode"])
def test_a_state_is_a_value(direction: str) -> None:
    """Steps from the same state give the same, and leave it as it was."""
    net = small_model("patch4").to(DEVICE).prepare_inference()
    steps: Steps = HaloSteps(net)
    z = torch.randn(1, net.config.latent_channels, 1, 1, 1).to(DEVICE)
    with torch.inference_mode():
        if direction == "encode":
            state = steps.encode(clip(1), None)[-1]
        else:
            state = steps.decode(z, None)[-1]
        before = {path: value.clone() for path, value in state.items()}
        if direction == "encode":
            results = [steps.encode(clip(4), state)[0] for _ in range(2)]
        else:
            results = [steps.decode(z, state)[0] for _ in range(2)]
    assert torch.equal(*results)
    assert all(torch.equal(state[path], before[path]) for path in before)


# What steps are made of: operators as they are called, with tensors that have no memory.

VIEWS = {
    "alias", "expand", "movedim", "permute", "select", "slice", "squeeze", "transpose", "unsqueeze",
    "view",
}  # fmt: skip
"""Operators that move nothing."""

LAYING_OUT = ["new_zeros", "copy_"]
"""Latents come as planes and are laid out once, after their past, of which a copy is kept."""


class Recorder(TorchDispatchMode):
    """Notes the operators that are called, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.called.append(name)
        return func(*args, **(kwargs or {}))


def recorded(config: ModelConfig) -> dict[str, list[list[str]]]:
    """The operators of a first and a later step in both directions."""
    with torch.device("meta"):
        net = PVVAE(config).prepare_inference()
    steps = HaloSteps(net)
    called: dict[str, list[list[str]]] = {"encode": [], "decode": []}
    encoding = decoding = None
    with torch.inference_mode():
        for count in (5, 4):
            frames = torch.empty(1, count, 32, 48, 3, dtype=torch.uint8, device="meta")
            with Recorder() as encode:
                z, encoding = steps.encode(frames, encoding)
            with Recorder() as decode:
                _, _, decoding = steps.decode(z, decoding)
            called["encode"].append(encode.called)
            called["decode"].append(decode.called)
    return called


def without_attention(name: str) -> ModelConfig:
    return dataclasses.replace(SMALL[name], attention=False)


@pytest.mark.parametrize("name", ["plain", "patch2"])
def test_an_encoder_step_is_a_chain_of_kernels(name: str) -> None:
    config = without_attention(name)
    expected = ["pixels_in", "halo_conv"]
    for level, blocks in enumerate(config.encoder_blocks):
        expected += ["halo_conv", "halo_conv"] * blocks
        if level < len(config.strides):
            expected += ["halo_shortcut"] if config.residual_shortcuts else []
            expected += ["halo_down"]
    expected += ["halo_conv"]
    for called in recorded(config)["encode"]:
        assert called == expected


@pytest.mark.parametrize("name", ["plain", "patch2"])
def test_a_decoder_step_is_a_chain_of_kernels(name: str) -> None:
    config = without_attention(name)
    expected = ["halo_conv"]
    for level, blocks in enumerate(reversed(config.decoder_blocks)):
        expected += ["halo_conv", "halo_conv"] * blocks
        if level < len(config.strides):
            expected += ["halo_up"]
    expected += ["halo_conv"]
    for called, past in zip(recorded(config)["decode"], ([], ["copy_"]), strict=True):
        begin = [*LAYING_OUT, *past, "clone"]
        assert called == [*begin, *expected, "isfinite", "all", "pixels_out"]


def test_norms_stand_alone_only_where_a_row_is_too_long() -> None:
    config = dataclasses.replace(
        without_attention("plain"), widths=(16, 16, 16, MAX_NORMED, MAX_NORMED + 16)
    )
    encode, decode = (Counter(calls[1]) for calls in recorded(config).values())
    # The last level's input and its block's two convolutions are followed by norms, in both.
    assert encode["halo_norm"] == 3
    assert decode["halo_norm"] == 2
