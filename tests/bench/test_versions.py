"""A row says by what it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pvtok
from pvtok.bench import versions


def test_environment() -> None:
    found = versions.environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert found["pvtok"] == pvtok.__version__
    assert found["threads"] == torch.get_num_threads()
    assert "core" in found["device"] or found["device"]
    assert found["cuda"] is None


def test_a_commit_is_our_own_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(pvtok.__file__).resolve().parents[1]
    assert (versions.commit() == "unknown") == (not (root / ".git").exists())
    monkeypatch.setattr(pvtok, "__file__", str(tmp_path / "site-packages/pvtok/__init__.py"))
    assert versions.commit() == "unknown"
