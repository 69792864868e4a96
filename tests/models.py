"""Small models for tests: every feature of the architecture, weights that are no identity."""

from __future__ import annotations

import dataclasses

import torch

from pvtok.configs import PRESETS, ModelConfig
from pvtok.model import PVVAE
from pvtok.tokenizer import Tokenizer

SMALL: dict[str, ModelConfig] = {
    "patch4": dataclasses.replace(
        PRESETS["tiny"],
        name="patch4",
        widths=(8, 16, 16),
        latent_channels=8,
        decoder_blocks=(1, 1, 2),
        patch_features=24,
        patch_experts=4,
    ),
    "patch2": ModelConfig(
        name="patch2",
        widths=(8, 16, 16, 32),
        encoder_blocks=(1, 1, 0, 1),
        decoder_blocks=(1, 0, 1, 1),
        temporal_taps=(3, 1, 3, 3),
        patch_size=2,
        latent_channels=8,
        attention=True,
        padding="gaussian",
    ),
    "plain": ModelConfig(
        name="plain",
        widths=(4, 8, 8, 8, 8),
        encoder_blocks=(1, 1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1, 1),
        temporal_taps=(3, 3, 3, 3, 3),
        latent_channels=4,
        residual_shortcuts=False,
        attention=True,
    ),
}


def small_model(name: str, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> PVVAE:
    """A model whose zero-initialised parts are random instead, so that everything takes part."""
    torch.manual_seed(seed)
    net = PVVAE(SMALL[name])
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return net.to(dtype).prepare_inference()


def small_tokenizer(name: str = "patch4") -> Tokenizer:
    """A tokenizer around a small model, on the CPU in fp32."""
    return Tokenizer(
        small_model(name),
        name=name,
        sha256=name.encode().hex().ljust(64, "0"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
