"""Runs small enough for tests: a model of 0.2 M parameters on rendered scenes of 32x32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvtok.training.config import TrainConfig, from_dict
from pvtok.training.run_log import LOG_FILE, read_rows
from pvtok.training.trainer import Trainer
from tests.models import SMALL

VALUES: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "log_every": 2,
    "model": SMALL["patch4"].to_dict() | {"training_frames": 9},
    "data": {"procedural": 1.0, "workers": 0},
    "optimizer": {"lr": 1e-3, "warmup_steps": 2, "precision": "fp32", "ema_decay": 0.9},
    "losses": {"relative": True},
    "validation": {"every": 4, "limit": 1, "size": 32, "frames": 9, "context": 5, "horizon": 4},
    "checkpoints": {"steps": 3},
    "stages": [
        {
            "name": "video",
            "steps": 6,
            "shapes": [
                {"frames": 9, "size": 32, "batch": 2},
                {"frames": 5, "size": 48, "batch": 1},
            ],
            "max_drop_ratio": 1.0,
        },
        {
            "name": "decoder",
            "steps": 3,
            "shapes": [{"frames": 9, "size": 32, "batch": 2}],
            "train": "decoder",
        },
    ],
}


def config(**sections: Any) -> TrainConfig:
    """The small run with some values replaced; tables are merged."""
    values = json.loads(json.dumps(VALUES))
    for key, value in sections.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return from_dict(values)


def one_stage(**fields: Any) -> list[dict[str, Any]]:
    """For `config(stages=...)`: one stage of four steps of two clips of five frames."""
    stage = {
        "name": "video",
        "steps": 4,
        "shapes": [{"frames": 5, "size": 32, "batch": 2}],
        "max_drop_ratio": 1.0,
    }
    return [stage | fields]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}


def saved(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    newest = max((folder / "checkpoints").glob("*.pt"))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what is measured by the clock."""
    timed = ("steps_per_second", "seconds")
    found = read_rows(folder / LOG_FILE)
    return [{k: v for k, v in row.items() if k not in timed} for row in found]


def equal(a: Any, b: Any) -> bool:
    """Whether two states hold the same, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def write(path: Path, values: TrainConfig) -> Path:
    """As a file that `pvtok train` reads."""
    path.write_text(json.dumps(values.to_dict()))
    return path
