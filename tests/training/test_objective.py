"""Predictive reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtok.training.losses import LossConfig, reconstruction_terms
from pvtok.training.objective import draw_dropped_groups, predictive_reconstruction
from tests.models import small_model


def clips(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, 32, 32, generator=generator) * 2 - 1


def test_k_is_uniform_and_keeps_the_first_group() -> None:
    generator = torch.Generator().manual_seed(0)
    for ratio, most in ((1.0, 4), (0.75, 3), (0.5, 2), (0.0, 0)):
        drawn = [draw_dropped_groups(5, ratio, generator) for _ in range(2000)]
        counts = np.bincount(drawn, minlength=most + 1)
        assert len(counts) == most + 1
        assert counts.min() > 0.8 * 2000 / (most + 1)


@pytest.mark.parametrize("name", ["patch4", "patch2", "plain"])
def test_dropped_frames_influence_nothing(name: str) -> None:
    net = small_model(name)
    x, other = clips(17), clips(17)
    other[:, :, 9:] = clips(17, seed=1)[:, :, 9:]
    padding = torch.randn(1, net.config.latent_channels, 2, 2, 2)
    outputs = [
        predictive_reconstruction(net, c, 2, padding_noise_BCkhw=padding)[0] for c in (x, other)
    ]
    assert outputs[0].shape == x.shape
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], predictive_reconstruction(net, other, 1)[0])


def test_nothing_dropped_is_plain_reconstruction() -> None:
    net = small_model("patch4")
    x = clips(9)
    posterior, _ = net.encode_step(x)
    noise = torch.randn_like(posterior.mean)
    for given, z in ((None, posterior.mean), (noise, posterior.sample(noise))):
        y, kl = predictive_reconstruction(net, x, 0, given)
        assert torch.equal(y, net.decode_step(z)[0])
        assert torch.equal(kl, posterior.kl())


@pytest.mark.parametrize("name", ["patch4", "plain"])
@pytest.mark.parametrize("dropped", [0, 2])
def test_gradients_reach_the_padding_token_when_something_is_dropped(
    name: str, dropped: int
) -> None:
    net = small_model(name).requires_grad_(True)
    y, _ = predictive_reconstruction(net, clips(17), dropped)
    reconstruction_terms(y, clips(17), LossConfig()).total.backward()
    gradient = net.padding_token.grad
    assert (gradient is not None and bool(gradient.any())) == bool(dropped)
