"""What a run says while it goes on: `log.jsonl`, and TensorBoard's files where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvtok.store.files import replace_durably, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class RunLog:
    """Rows of one run, each of a kind and at a step (the number of steps done by then).

    Args:
        folder: the run's.
        step: rows after this one are of a past that was lost to a kill; they are removed.
        say: takes notices.
    """

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        path = folder / LOG_FILE
        rows = [row for row in read_rows(path) if row["step"] <= step]
        self._known: dict[tuple[str, int], dict[str, Any]] = {
            (row["kind"], row["step"]): row for row in rows
        }
        with writing(path):
            replace_durably(path, "".join(_line(row) for row in rows).encode())
            self._file = path.open("a", buffering=1)
        self._board = _tensorboard(folder / TENSORBOARD_FOLDER, step, say)

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a row."""
        return (kind, step) in self._known

    def last(self, kind: str) -> dict[str, Any] | None:
        """The newest row of a kind."""
        found = [row for (known, _), row in self._known.items() if known == kind]
        return found[-1] if found else None

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a row; what is not finite becomes null."""
        row = {"kind": kind, "step": step, **values}
        with writing(Path(self._file.name)):
            self._file.write(_line(row))
        self._known[kind, step] = row
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()

    def picture(self, name: str, step: int, picture_HWC: NDArray[np.uint8]) -> None:
        """Show a picture in TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, picture_HWC, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last one that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _line(row: Mapping[str, Any]) -> str:
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _tensorboard(folder: Path, step: int, say: Callable[[str], None]) -> SummaryWriter | None:
    if importlib.util.find_spec("tensorboard") is None:
        say("no TensorBoard files: install it with pip install 'pvtok[train]'")
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
