"""The folder of a run: its configuration and the checkpoints it can go on from.

config.json       the whole configuration
log.jsonl         rows of training and validation
tensorboard/      the same for TensorBoard
samples/          pictures of validation clips
checkpoints/      the newest states of everything, whole or not there
model/            the averaged weights, as `Tokenizer.load` opens them
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from pvtok.errors import CorruptCheckpointError, OutputExistsError, StoreError, UsageError
from pvtok.store.files import FolderLock, replace_durably, sync_folder, writing
from pvtok.training.config import CONFIG_FILE, TrainConfig, differences, from_dict

CHECKPOINTS_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
SAMPLES_FOLDER = "samples"
FORMAT_VERSION = 1


class RunFolder:
    """One run's folder, which one run at a time may write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | None = None

    @property
    def model(self) -> Path:
        return self.path / MODEL_FOLDER

    def check(self, config: TrainConfig, *, resume: bool) -> None:
        """Whether a run can begin here, or go on with the one that is here.

        Raises:
            OutputExistsError: something is here and `resume` is off.
            UsageError: what is here is no run, or a run of another configuration.
        """
        there = self.path.exists() and any(self.path.iterdir())
        if there and not resume:
            raise OutputExistsError(
                f"{self.path} exists",
                fix="Go on with it by --resume, or choose another folder with -o.",
            )
        file = self.path / CONFIG_FILE
        if there and not file.is_file():
            raise UsageError(f"{self.path} holds no run", why=f"there is no {CONFIG_FILE} in it")
        if there and self.checkpoints():
            changed = differences(read_config(file), config)
            if changed:
                raise UsageError(
                    f"the run in {self.path} has another configuration",
                    why=f"{', '.join(changed)} differ",
                    fix="Go on with the same values, or begin another run in another folder"
                    f" (start = '{self.model}' begins from its weights).",
                )

    def open(self, config: TrainConfig, *, resume: bool) -> None:
        """Begin a run here, or go on with the one that is here.

        Raises:
            As `check`; StoreError: another process is writing here.
        """
        self.check(config, resume=resume)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = FolderLock.acquire(self.path)
            except StoreError as error:
                raise StoreError(
                    f"{self.path} is in use", why="another run writes to it"
                ) from error
            for name in (CHECKPOINTS_FOLDER, SAMPLES_FOLDER):
                (self.path / name).mkdir(exist_ok=True)
            replace_durably(
                self.path / CONFIG_FILE, (json.dumps(config.to_dict(), indent=2) + "\n").encode()
            )

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.path / CHECKPOINTS_FOLDER).glob("step-*.pt"))

    def save(self, state: dict[str, Any], keep: int) -> Path:
        """Write a checkpoint of step `state["step"]`, and remove all but the newest `keep`."""
        path = self.path / CHECKPOINTS_FOLDER / f"step-{state['step']:09d}.pt"
        draft = path.with_suffix(".tmp")
        with writing(path):
            with draft.open("wb") as file:
                torch.save({"format_version": FORMAT_VERSION, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(path.parent)
            for old in self.checkpoints()[:-keep]:
                old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None where there is none yet.

        Raises:
            CorruptCheckpointError: it cannot be read.
        """
        paths = self.checkpoints()
        if not paths:
            return None
        try:
            state: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=True)
            version = state["format_version"]
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise CorruptCheckpointError(
                f"{paths[-1]} cannot be read",
                why=str(error).split("\n")[0],
                fix="Remove it to go on from the one before." if len(paths) > 1 else "",
            ) from error
        if version != FORMAT_VERSION:
            raise CorruptCheckpointError(
                f"{paths[-1]} has format {version!r}", why=f"this version reads {FORMAT_VERSION}"
            )
        return state


def read_config(file: Path) -> TrainConfig:
    """The configuration of a run.

    Raises:
        UsageError: it cannot be read by this version.
    """
    try:
        return from_dict(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read", why=str(error)) from error
