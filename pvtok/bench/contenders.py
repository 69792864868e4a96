"""What is measured: our model by one backend or another, or somebody else's model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pvtok import backends, checkpoint
from pvtok.bench.flops import Flops, decode_flops, encode_flops
from pvtok.bench.gate import Codec, Reference
from pvtok.configs import PRESETS
from pvtok.model import PVVAE
from pvtok.model.patch_code import PLACE_CHANNELS, steps_per_unit
from pvtok.steps import CompiledSteps, GraphedSteps, Steps, TorchSteps
from pvtok.tokenizer import Tokenizer

BACKENDS = ("auto", "torch", "triton", "compile")
"""`auto` is what a tokenizer takes by itself."""


class Family(Protocol):
    """A model, however it is computed: contenders of one family have the same reference."""

    name: str
    weights: str
    """Where they come from: a checkpoint's SHA-256, or "random, seed 0"."""

    def reference(self, frames_BTHWC: Tensor, dtype: torch.dtype) -> Reference:
        """What the plain definition makes of the clips, on their device."""

    def flops(self, batch: int, frames: int, height: int, width: int) -> dict[str, Flops]:
        """Operations by stage: "encode", "decode"."""


@dataclass
class Contender:
    """One model through one backend, ready to run."""

    family: Family
    backend: str
    dtype: torch.dtype
    codec: Codec
    parameter_bytes: int


class StepsCodec:
    """Whole clips by one step of a backend each way."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.finite: Tensor | None = None

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        return self.steps.encode(frames_BTHWC, None)[0]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        frames, self.finite, _ = self.steps.decode(z_BCTHW, None)
        return frames


class OurFamily:
    """A checkpoint of ours, or a preset with random weights."""

    def __init__(self, model: str, seed: int) -> None:
        self.model, self.seed = model, seed
        self.random = is_random(model)
        self.name = model if self.random else checkpoint.inspect(model).config.name
        self.weights = (
            f"random, seed {seed}" if self.random else f"sha256 {checkpoint.inspect(model).sha256}"
        )

    def tokenizer(self, device: torch.device, dtype: torch.dtype) -> Tokenizer:
        """The model on a device."""
        if not self.random:
            return Tokenizer.load(self.model, str(device), dtype)
        net = random_net(self.model, self.seed)
        return Tokenizer(net, name=self.name, sha256=self.weights, device=device, dtype=dtype)

    def reference(self, frames_BTHWC: Tensor, dtype: torch.dtype) -> Reference:
        tok = self.tokenizer(frames_BTHWC.device, dtype)
        plain = StepsCodec(TorchSteps(tok.net.plain_()))
        z = plain.encode(frames_BTHWC)
        config = tok.config
        places = None
        if config.patch_features:
            places = (PLACE_CHANNELS, 1 / steps_per_unit(config.patch_experts))
        return Reference(z, plain.decode(z), dtype, places)

    def flops(self, batch: int, frames: int, height: int, width: int) -> dict[str, Flops]:
        config = PRESETS[self.model] if self.random else checkpoint.inspect(self.model).config
        with torch.device("meta"):
            net = PVVAE(config)
        size = (batch, frames, height, width)
        return {"encode": encode_flops(net, *size), "decode": decode_flops(net, *size)}


def is_random(model: str) -> bool:
    """Whether a name stands for a preset without weights."""
    return model in PRESETS and model not in checkpoint.bundled_models()


def random_net(preset: str, seed: int) -> PVVAE:
    """A preset with random weights everywhere: residual branches that start at zero would multiply
    zeros, which hardware does faster."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = PVVAE(PRESETS[preset])
        with torch.no_grad():
            for parameter in net.parameters():
                if not parameter.any():
                    fan = parameter[0].numel()
                    parameter.normal_(std=fan**-0.5 if parameter.ndim > 1 else 0.05)
    return net


def our_contender(tok: Tokenizer, family: OurFamily, backend: str) -> Contender:
    """`tok`'s model, on its own weights, through a backend of `BACKENDS`."""
    codec = StepsCodec(steps_for(tok, backend))
    return Contender(family, codec.steps.backend, tok.dtype, codec, parameter_bytes(tok.net))


def steps_for(tok: Tokenizer, backend: str) -> Steps:
    """The steps of a backend.

    Raises:
        MissingDependencyError: it is not to be had here. UsageError: there is no such backend.
    """
    if backend != "compile":
        return backends.steps_for(tok.net, tok.device, cast(backends.Kernels, backend))
    compiled = CompiledSteps(TorchSteps(tok.net))
    return GraphedSteps(compiled) if tok.device.type == "cuda" else compiled


def parameter_bytes(net: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in net.parameters())
