"""Presets, posterior, padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pvtok.configs import PRESETS, ModelConfig
from pvtok.errors import CheckpointError, UsageError
from pvtok.model import PVVAE, Posterior
from tests.models import SMALL, small_model


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in PVVAE(PRESETS[name]).parameters())


def test_paper_preset_has_the_papers_size() -> None:
    assert parameters("paper") == pytest.approx(661e6, rel=0.02)
    assert PRESETS["paper"].patch_size == 1
    assert PRESETS["paper"].latent_channels == 64


def test_other_presets_have_their_size() -> None:
    assert parameters("tiny") <= 12e6
    assert 60e6 <= parameters("base") <= 120e6


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_compress_as_t4s16c64(name: str) -> None:
    strides = PRESETS[name].strides
    patch = PRESETS[name].patch_size
    assert [s for s in strides if s[0] == 2] == [(2, 2, 2)] * 2
    assert strides[:2] == ((2, 2, 2),) * 2
    assert patch * 2 ** len(strides) == 16


def test_posterior() -> None:
    mean = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    posterior = Posterior(mean, torch.zeros_like(mean))
    assert posterior.kl().flatten().tolist() == [0.0, 0.5]
    many = Posterior(torch.full((1, 1, 1, 100, 100), 3.0), torch.full((1, 1, 1, 100, 100), -2.0))
    sample = many.sample(torch.randn(many.mean.shape, generator=torch.Generator().manual_seed(0)))
    assert float(sample.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(sample.std()) == pytest.approx(float(torch.tensor(-1.0).exp()), rel=0.05)


def test_logvar_cannot_overflow() -> None:
    moments = torch.full((1, 4, 1, 1, 1), 1e6)
    assert torch.isfinite(Posterior.from_moments(moments).kl()).all()


def test_learnable_padding_is_the_token_everywhere() -> None:
    net = small_model("patch4")
    like = torch.zeros(2, 8, 3, 2, 3)
    padding = net.padding_latents(like, 2)
    assert padding.shape == (2, 8, 2, 2, 3)
    assert torch.equal(padding, net.padding_token.view(1, 8, 1, 1, 1).expand_as(padding))
    assert net.padding_token.any()


def test_gaussian_padding_is_noise_of_the_generator() -> None:
    net = small_model("patch2")
    like = torch.zeros(1, 8, 3, 16, 16)
    a, b = (net.padding_latents(like, 2, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(a, b)
    assert float(a.std()) == pytest.approx(1.0, abs=0.1)
    assert not hasattr(net, "padding_token")


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_weight_gets_a_gradient(name: str) -> None:
    net = PVVAE(SMALL[name])
    for n, parameter in net.named_parameters():
        if n != "padding_token":  # it must go on saying that nothing is known
            torch.nn.init.normal_(parameter, std=0.05)
    posterior, _ = net.encode_step(torch.rand(1, 3, 9, 32, 32) * 2 - 1)
    z = posterior.sample(torch.randn_like(posterior.mean))
    padded = torch.cat([z, net.padding_latents(z, 1)], dim=2)
    y, _ = net.decode_step(padded)
    y.square().mean().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_config_round_trip_and_strictness() -> None:
    config = PRESETS["tiny"]
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(CheckpointError, match="'depth'"):
        ModelConfig.from_dict(config.to_dict() | {"depth": 3})
    values = config.to_dict()
    del values["widths"]
    with pytest.raises(CheckpointError, match="widths"):
        ModelConfig.from_dict(values)
    with pytest.raises(CheckpointError, match="patch_size"):
        ModelConfig.from_dict(config.to_dict() | {"patch_size": 3})


@pytest.mark.parametrize(
    "change",
    [
        {"widths": (8, 16)},
        {"temporal_taps": (1, 2, 3)},
        {"padding": "zeros"},
        {"latent_mean": (0.0,)},
        {"latent_channels": 500},
    ],
)
def test_configs_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(PRESETS["tiny"], **change)  # type: ignore[arg-type]
