"""Other projects' video autoencoders, measured as they come, beside ours."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pvtok.bench.contenders import Contender, parameter_bytes
from pvtok.bench.flops import Flops
from pvtok.bench.gate import Reference
from pvtok.errors import MissingDependencyError, UsageError

PREFIX = "diffusers:"
WAN22: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
}
"""As published with Wan2.2-TI2V-5B (vae/config.json): 704.7 M parameters."""
CONFIGURATIONS = {"AutoencoderKLWan": WAN22}


class DiffusersCodec:
    """A diffusers autoencoder between uint8 frames and raw posterior means."""

    finite: Tensor | None = None

    def __init__(self, net: Any) -> None:
        self.net = net

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        x = (frames_BTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0).to(self.net.dtype)
        z: Tensor = self.net.encode(x).latent_dist.mean
        return z

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        y = self.net.decode(z_BCTHW).sample
        y = (y.permute(0, 2, 3, 4, 1).float() + 1.0) * 127.5
        frames: Tensor = y.round_().clamp_(0, 255).to(torch.uint8)
        return frames


class DiffusersFamily:
    """A diffusers class with random weights."""

    def __init__(self, name: str, seed: int, config: dict[str, Any] | None = None) -> None:
        if config is None and name not in CONFIGURATIONS:
            known = ", ".join(f"{PREFIX}{known}" for known in CONFIGURATIONS)
            raise UsageError(f"rival {PREFIX + name!r}", fix=f"Known ones: {known}.")
        self.name = name
        self.config = CONFIGURATIONS[name] if config is None else config
        self.seed = seed
        self.weights = f"random, seed {seed}"
        self.kind = _diffusers_class(name)

    def net(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The module in inference mode. Weights are drawn on the CPU, the same for any device."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net: nn.Module = self.kind(**self.config)
        # diffusers' own `to` warns of modules to be kept in fp32 even where there are none.
        return nn.Module.to(net, device=device, dtype=dtype).eval().requires_grad_(False)

    def contender(self, device: torch.device, dtype: torch.dtype) -> Contender:
        net = self.net(device, dtype)
        return Contender(self, "diffusers", dtype, DiffusersCodec(net), parameter_bytes(net))

    def reference(self, frames_BTHWC: Tensor, dtype: torch.dtype) -> Reference:
        codec = DiffusersCodec(self.net(frames_BTHWC.device, dtype))
        z = codec.encode(frames_BTHWC)
        return Reference(z, codec.decode(z), dtype)

    def flops(self, batch: int, frames: int, height: int, width: int) -> dict[str, Flops]:
        """As counted while it runs, on tensors without storage; it takes no exact savings."""
        with torch.device("meta"):
            net = self.kind(**self.config).eval().requires_grad_(False)
            frames_BTHWC = torch.empty(batch, frames, height, width, 3, dtype=torch.uint8)
        codec = DiffusersCodec(net)
        with FlopCounterMode(display=False) as encoding:
            z = codec.encode(frames_BTHWC)
        with FlopCounterMode(display=False) as decoding:
            codec.decode(z)
        counts = {"encode": encoding.get_total_flops(), "decode": decoding.get_total_flops()}
        return {stage: Flops(count, count, count) for stage, count in counts.items()}


def _diffusers_class(name: str) -> Any:
    try:
        return getattr(importlib.import_module("diffusers"), name)
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"rival {PREFIX + name!r}",
            why=f"diffusers with {name} is not installed ({error})",
            fix="Install it: pip install 'pvtok[diffusers]'.",
        ) from error
