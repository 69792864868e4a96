"""Videos decoded once into memory-mapped arrays."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pvtok.groups import FramesTHWC
from pvtok.store.files import writing
from pvtok.video import ReadOptions, VideoReader
from pvtok.video.names import input_file

_ABANDONED_SECONDS = 3600
"""A draft nobody has written to for so long was left by a run that was killed."""


class ClipCache:
    """A folder of .npy files, uint8 `[T, H, W, 3]`, one for a video and the way it was read.

    The name says all that the content depends on, so another scale or a changed video is another
    file. A file takes its name when it is whole. Any number of processes may use one folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for draft in folder.glob("*.tmp"):
                try:
                    if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                        draft.unlink()
                except FileNotFoundError:  # another process was faster
                    pass

    def frames(self, video: Path, options: ReadOptions) -> FramesTHWC:
        """All frames that `options` ask for, decoded now or mapped from the file of before.

        Raises:
            VideoError, CorruptVideoError: the video cannot be read to its end.
            WriteError: the cache cannot be written.
        """
        target = self._folder / _name(video, options)
        if not target.exists():
            with writing(target):
                draft = target.with_name(f"{target.name}.{secrets.token_hex(8)}.tmp")
                try:
                    with draft.open("xb") as file:
                        _decode(video, options, file)
                    draft.replace(target)
                finally:
                    draft.unlink(missing_ok=True)
        frames: FramesTHWC = np.load(target, mmap_mode="r")
        return frames


def _name(video: Path, options: ReadOptions) -> str:
    status = input_file(video).stat()
    identity = (str(video.resolve()), status.st_size, status.st_mtime_ns, options)
    return f"{video.stem[:64]}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:20]}.npy"


def _decode(video: Path, options: ReadOptions, file: IO[bytes]) -> None:
    """Write the frames as they come: a long video need not fit into memory."""
    with VideoReader(video, options) as reader:
        rest = (reader.height, reader.width, 3)
        _write_header(file, 0, rest)
        begin = file.tell()
        for chunk in reader:
            file.write(chunk.data)
        # numpy leaves room in the header for the number of rows to grow.
        file.seek(0)
        _write_header(file, reader.frames_read, rest)
        assert file.tell() == begin
    file.flush()
    os.fsync(file.fileno())


def _write_header(file: IO[bytes], frames: int, rest: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (frames, *rest)}
    npy.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call, unused-ignore]
