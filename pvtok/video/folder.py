"""Frames into a folder of PNG files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from PIL import Image

from pvtok.errors import WriteError
from pvtok.groups import FramesTHWC

_OURS = re.compile(r"\d{6,}\.png")

_COMPRESSION = 3
"""zlib's level: within a few percent of the default's size in half of its time."""


class PngFolder:
    """Writes 000000.png, 000001.png, ... into a folder that is there already."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._count = folder, name, 0

    def write(self, frames: FramesTHWC) -> None:
        """Write frames `[T, H, W, 3]`.

        Raises:
            WriteError: the disk is full, ...
        """
        try:
            for frame in frames:
                path = self._folder / f"{self._count:06d}.png"
                Image.fromarray(frame).save(path, compress_level=_COMPRESSION)
                self._count += 1
        except OSError as error:
            raise WriteError(
                f"cannot write {self._name}", why=error.strerror or str(error)
            ) from error

    def finish(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """Nothing runs."""


def holds_only_frames(folder: Path) -> bool:
    """Whether a folder has nothing in it but numbered frames: only such a one is ever replaced."""
    return all(_OURS.fullmatch(p.name) and p.is_file() for p in folder.iterdir())


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of another, which is kept until the new one is there."""
    if not target.exists():
        new.rename(target)
        return
    old = new.with_name(new.name + "-old")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
