"""The log of a run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from pvtok.training.run_log import RunLog, read_rows


def quiet(text: str) -> None:
    pass


def test_rows_after_the_checkpoint_are_dropped_on_resuming(tmp_path: Path) -> None:
    log = RunLog(tmp_path, -1, quiet)
    for step in (0, 2, 4, 6):
        log.add("train", step, {"loss": step / 2})
    log.add("validation", 4, {"psnr": 30.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut off by a kill
    log = RunLog(tmp_path, 4, quiet)
    assert log.has("train", 4)
    assert log.has("validation", 4)
    assert not log.has("train", 6)
    log.add("train", 5, {"loss": 9.0})
    assert log.last("train") == {"kind": "train", "step": 5, "loss": 9.0}
    assert log.last("end") is None
    log.close()
    assert [(r["kind"], r["step"]) for r in read_rows(tmp_path / "log.jsonl")] == [
        ("train", 0),
        ("train", 2),
        ("train", 4),
        ("validation", 4),
        ("train", 5),
    ]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, -1, quiet)
    log.add("train", 1, {"loss": float("nan"), "shape": [1, 2]})
    log.close()
    text = (tmp_path / "log.jsonl").read_text()
    assert json.loads(text) == {"kind": "train", "step": 1, "loss": None, "shape": [1, 2]}


def test_without_tensorboard_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    log = RunLog(tmp_path, -1, said.append)
    log.add("train", 1, {"loss": 1.0})
    log.picture("samples", 1, np.zeros((4, 4, 3), np.uint8))
    log.close()
    assert len(said) == 1
    assert "pvtok[train]" in said[0]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, -1, quiet)
    log.add("train", 3, {"loss": 1.5, "stage": "video", "shape": [1, 2]})
    log.picture("samples", 3, np.full((8, 6, 3), 200, np.uint8))
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 1.5)]
    (image,) = events.Images("samples")
    assert (image.height, image.width) == (8, 6)
