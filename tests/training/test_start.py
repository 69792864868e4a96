"""The start of training: a patch code fitted to data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pvtok.model import PVVAE
from pvtok.model.patch_code import PLACE_CHANNELS, UNKNOWN
from pvtok.training.data import render_clip
from pvtok.training.randomness import numpy_generator
from pvtok.training.start import PatchFit, fit_patch_code, start_fitted
from tests.models import SMALL

CONFIG = SMALL["patch4"]
BLOCK = (4, 16, 16)
KEPT = CONFIG.latent_channels - PLACE_CHANNELS


def scenes(count: int, frames: int, first: int = 0) -> Iterator[torch.Tensor]:
    for i in range(first, first + count):
        yield render_clip(numpy_generator(0, i), frames, 64)


@pytest.fixture(scope="module")
def fit() -> PatchFit:
    return fit_patch_code(scenes(40, 9), CONFIG, rounds=2)


@pytest.fixture
def net(fit: PatchFit) -> PVVAE:
    model = PVVAE(CONFIG)
    start_fitted(model, fit)
    return model


def test_bases_are_orthonormal(fit: PatchFit) -> None:
    identity = torch.eye(KEPT)
    for basis in fit.experts:
        torch.testing.assert_close(basis.T @ basis, identity, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        fit.basis.T @ fit.basis, torch.eye(CONFIG.patch_features), atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_a_fitted_start_projects_every_block_on_its_best_subspace(
    net: PVVAE, fit: PatchFit
) -> None:
    x = next(scenes(1, 9, first=100))[None].float() / 127.5 - 1
    z = net.encode_step(x)[0].mean
    y, _ = net.decode_step(z)
    block = x[0, :, 1:5, 16:32, 32:48].flatten() - fit.mean
    features = fit.basis.T @ block
    lengths = [(basis.T @ features).norm() for basis in fit.experts]
    best = fit.experts[int(torch.stack(lengths).argmax())]
    expected = fit.mean + fit.basis @ (best @ (best.T @ features))
    found = y[0, :, 1:5, 16:32, 32:48].flatten()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@torch.no_grad()
def test_more_experts_keep_more(fit: PatchFit) -> None:
    """Against the best single subspace, on clips that were not fitted to."""
    from pvtok.model.resample import space_to_depth

    kept: dict[str, float] = {"one": 0.0, "several": 0.0}
    for clip in scenes(10, 5, first=200):
        x = space_to_depth(clip[None, :, 1:].float() / 127.5 - 1, BLOCK)[0].flatten(1).T
        features = (x - fit.mean) @ fit.basis
        kept["one"] += float(features[:, :KEPT].square().sum())
        codes = torch.stack([(features @ b).square().sum(1) for b in fit.experts])
        kept["several"] += float(codes.max(0).values.sum())
    assert kept["several"] > kept["one"]


@torch.no_grad()
def test_places_off_the_grid_are_of_unknown_blocks_only(net: PVVAE) -> None:
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    z = net.encode_step(x)[0].mean
    assert z[:, -PLACE_CHANNELS:].abs().max() < UNKNOWN / 2
    padding = net.padding_latents(z, 1)[:, -PLACE_CHANNELS:]
    assert torch.equal(padding, torch.full_like(padding, UNKNOWN))
