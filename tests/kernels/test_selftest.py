"""The check of all kernels that `pvtok doctor` runs, and that it can fail."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import halo_norm
from pvtok.kernels.selftest import check_kernels
from tests.kernels.halo_cases import DEVICE


def test_every_kernel_passes() -> None:
    found = list(check_kernels(DEVICE, torch.float32, channels=16, size=4))
    assert all(f.ok for f in found), [f for f in found if not f.ok]
    kinds = {f.what.split()[0] for f in found}
    assert kinds == {"conv", "shortcut", "down", "up", "norm", "pixels"}


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = halo_norm.norm

    def broken(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        out, kept = norm(*args)
        return out * torch.nan, kept

    monkeypatch.setattr(halo_norm, "norm", broken)
    found = check_kernels(DEVICE, torch.float32, channels=16, size=4)
    assert {f.what.split()[0] for f in found if not f.ok} == {"norm"}
