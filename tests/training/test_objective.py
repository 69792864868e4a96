"""Predictive reconstruction and the linear start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtok.model import PVVAE
from pvtok.scenes import render_scene
from pvtok.training.linear import fit_patch_pca, start_linear
from pvtok.training.objective import (
    ObjectiveConfig,
    draw_dropped_groups,
    predictive_loss,
    predictive_reconstruction,
)
from tests.models import SMALL, small_model


def test_k_is_uniform_and_keeps_the_first_group() -> None:
    generator = torch.Generator().manual_seed(0)
    for ratio, most in ((1.0, 4), (0.75, 3), (0.5, 2), (0.0, 0)):
        drawn = [draw_dropped_groups(5, ratio, generator) for _ in range(2000)]
        counts = np.bincount(drawn, minlength=most + 1)
        assert len(counts) == most + 1
        assert counts.min() > 0.8 * 2000 / (most + 1)


def test_dropped_frames_influence_nothing() -> None:
    net = small_model("patch4")
    x = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    other = x.clone()
    other[:, :, 9:] = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    outputs = [
        predictive_reconstruction(net, clip, 2, torch.Generator().manual_seed(0))[0]
        for clip in (x, other)
    ]
    assert outputs[0].shape == x.shape
    assert torch.equal(outputs[0], outputs[1])


def test_nothing_dropped_is_plain_reconstruction() -> None:
    net = small_model("patch4")
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    y, _ = predictive_reconstruction(net, x, 0, torch.Generator().manual_seed(0))
    posterior, _ = net.encode_step(x)
    z = posterior.sample(torch.Generator().manual_seed(0))
    assert torch.equal(y, net.decode_step(z)[0])


def test_gradients_reach_the_padding_token_when_something_is_dropped() -> None:
    for dropped in (0, 2):
        net = small_model("patch4").requires_grad_(True)
        x = torch.rand(1, 3, 17, 32, 32) * 2 - 1
        predictive_loss(net, x, dropped, ObjectiveConfig()).total.backward()
        gradient = net.padding_token.grad
        assert (gradient is not None and bool(gradient.any())) == bool(dropped)


def test_difference_term_is_that_of_adjacent_frames() -> None:
    net = small_model("patch4")
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    seeded = torch.Generator().manual_seed(0)
    losses = predictive_loss(net, x, 1, ObjectiveConfig(), seeded)
    y, _ = predictive_reconstruction(net, x, 1, torch.Generator().manual_seed(0))
    expected = ((y[:, :, 1:] - y[:, :, :-1]) - (x[:, :, 1:] - x[:, :, :-1])).square().mean()
    assert float(losses.difference) == pytest.approx(float(expected), rel=1e-4)
    image = predictive_loss(net, x[:, :, :1], 0, ObjectiveConfig())
    assert float(image.difference) == 0.0


def test_a_linear_start_is_the_linear_code() -> None:
    """The untrained model reconstructs whole groups as projection on the components does."""
    config = SMALL["patch4"]
    scene = np.concatenate(list(render_scene(3, 33, 64, 64)))
    pca = fit_patch_pca([scene], (4, 16, 16), config.widths[-1], 1000, seed=0)
    assert torch.allclose(pca.basis.T @ pca.basis, torch.eye(config.widths[-1]), atol=1e-4)
    net = PVVAE(config)
    start_linear(net, pca)
    x = torch.from_numpy(scene[:9]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        y, _ = net.decode_step(net.encode_step(x)[0].mean)
    group = x[0, :, 1:5, :16, :16].flatten()
    basis = pca.basis[:, : config.latent_channels]
    expected = pca.mean + basis @ (basis.T @ (group - pca.mean))
    torch.testing.assert_close(y[0, :, 1:5, :16, :16].flatten(), expected, atol=1e-4, rtol=1e-4)


def test_relative_errors_have_the_gradient_of_mean_psnr() -> None:
    x = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    gradients = []
    for relative in (True, False):
        net = small_model("patch4").requires_grad_(True)
        generator = torch.Generator().manual_seed(0)
        if relative:
            config = ObjectiveConfig(difference_weight=0.0, relative=True, kl_weight=0.0)
            loss = predictive_loss(net, x, 1, config, generator).total
        else:
            y, _ = predictive_reconstruction(net, x, 1, generator)
            loss = ((y - x).square().mean((1, 3, 4)) + 1e-4).log().mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)
