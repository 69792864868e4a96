"""The diffusers rival: the published size, and the same class at a tiny width."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch

from pvtok.bench.gate import check
from pvtok.bench.rivals import WAN22, DiffusersFamily
from pvtok.errors import MissingDependencyError, UsageError

needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed"
)
TINY: dict[str, Any] = {**WAN22, "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4}


@needs_diffusers
def test_wan22_has_its_published_size() -> None:
    family = DiffusersFamily("AutoencoderKLWan", 0)
    with torch.device("meta"):
        net = family.kind(**family.config)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(704.7e6, rel=1e-4)
    pixels = 17 * 256 * 256
    flops = family.flops(1, 17, 256, 256)
    assert flops["encode"].dense / pixels == pytest.approx(3.56e6, rel=1e-2)
    assert flops["decode"].dense / pixels == pytest.approx(18.65e6, rel=1e-2)


@needs_diffusers
@torch.inference_mode()
def test_it_runs_and_is_checked() -> None:
    family = DiffusersFamily("AutoencoderKLWan", 0, TINY)
    frames = torch.randint(0, 256, (2, 5, 32, 32, 3), dtype=torch.uint8)
    reference = family.reference(frames, torch.float32)
    assert reference.z_BCTHW.shape == (2, 4, 2, 2, 2)
    assert reference.frames_BTHWC.shape == frames.shape
    contender = family.contender(torch.device("cpu"), torch.float32)
    assert check(contender.codec, torch.float32, frames, reference).passed
    other = DiffusersFamily("AutoencoderKLWan", 1, TINY)
    stranger = other.contender(torch.device("cpu"), torch.float32)
    assert not check(stranger.codec, torch.float32, frames, reference).passed


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pvtok\[diffusers\]'"):
        DiffusersFamily("AutoencoderKLWan", 0)


def test_unknown_classes_are_named() -> None:
    with pytest.raises(UsageError, match="AutoencoderKLWan"):
        DiffusersFamily("AutoencoderKL", 0)
