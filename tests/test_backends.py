"""Which backend runs a model where."""

from __future__ import annotations

import pytest
import torch

from pvtok import backends
from pvtok.backends import steps_for
from pvtok.errors import MissingDependencyError, UsageError
from pvtok.kernels import available
from tests.models import small_model

CPU = torch.device("cpu")


def test_auto_is_pytorch_where_the_kernels_have_not_been_measured() -> None:
    assert steps_for(small_model("patch4"), CPU).backend == "torch"
    assert steps_for(small_model("patch4"), CPU, "torch").backend == "torch"


def test_unknown_kernels() -> None:
    with pytest.raises(UsageError, match="'cudnn'"):
        steps_for(small_model("patch4"), CPU, "cudnn")  # type: ignore[arg-type]


def test_what_stands_in_the_way_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(MissingDependencyError, match=r"GPU|not installed"):
        steps_for(small_model("patch4"), CPU, "triton")
    monkeypatch.setattr(available.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(available, "version", lambda name: "3.5.1")
    assert "3.5.1 is older than 3.6" in (available.obstacle(CPU, torch.float32) or "")


def test_the_interpreter_is_not_trusted_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available.obstacle(CPU, torch.float16) is None
    with pytest.raises(MissingDependencyError, match="bf16"):
        steps_for(small_model("patch4", dtype=torch.bfloat16), CPU, "triton")


def test_auto_takes_the_kernels_where_they_have_been_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(backends, "obstacle", lambda device, dtype: None)
    monkeypatch.setattr(backends, "measured", lambda device: True)
    assert steps_for(small_model("patch4"), CPU).backend == "triton"
