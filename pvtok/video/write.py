"""Writing frames: to the last one, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from pvtok.errors import FrameSizeError, OutputExistsError, UsageError, WriteError
from pvtok.groups import FramesTHWC
from pvtok.video.encode import SUFFIXES, Encoder, usable_rate
from pvtok.video.folder import PngFolder, holds_only_frames, replace_folder
from pvtok.video.limits import check_size
from pvtok.video.names import check_name, shown

_MAX_CRF = 51
_MAX_GIF_FPS = 100


class VideoWriter:
    """Writes a video, a GIF or a folder of PNGs. A context manager.

    The suffix chooses: .mp4 .mkv .mov (H.264), .webm (VP9), .avi (H.264), .gif; no suffix or a
    trailing "/" is a folder of PNGs (which carries no rate). Frames go to a temporary sibling; it
    takes the name `path` when the context is left without an error, and is removed otherwise. As
    many frames come out as go in.

    Args:
        path: where to.
        width, height: of all frames, in pixels.
        fps: frames per second, exact: kept as a rational in .mp4 and .mov; .mkv and .webm round
            each frame's time to 1 ms, .gif to 10 ms.
        crf: quality on x264's scale, 0 (best) to 51.
        lossless: the file gives back the very frames, bit for bit (not in .gif).
        overwrite: replace what is there, once the new file is whole.
        color_matrix: "bt709" or "bt601"; tagged so, limited range.
        audio_from: a file whose first sound stream is added whole, as it is where the container
            allows, else encoded anew.
        timestamps: seconds of each frame, growing, for a variable rate (.mp4 .mov .mkv .webm; to
            1/90000 s in the first two). The first frame is at 0. Their number must be that of the
            frames. Where it is None, or the format has no such times, frames are evenly spaced at
            `fps`.

    Attributes:
        frames_written: so far.
        notices: what was decided for the user, a sentence each.

    Raises:
        UsageError: an unknown suffix, or arguments that do not fit.
        OutputExistsError: something is there, and `overwrite` is False.
        FrameSizeError: a size that cannot be written.
        VideoError: `audio_from` has no sound, or cannot be read.
        WriteError: the folder is missing or cannot be written to.
        MissingDependencyError: no ffmpeg.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Fraction,
        *,
        crf: int = 18,
        lossless: bool = False,
        overwrite: bool = False,
        color_matrix: str = "bt709",
        audio_from: str | os.PathLike[str] | None = None,
        timestamps: Sequence[float] | None = None,
    ) -> None:
        self._path, self._name = Path(path), shown(os.fspath(path))
        self._suffix = "" if os.fspath(path).endswith("/") else self._path.suffix.lower()
        self._overwrite = overwrite
        self._shape = (height, width, 3)
        self.frames_written = 0
        self.notices: list[str] = []
        rate = self._check(Fraction(fps), crf, lossless, color_matrix, audio_from)
        check_size(width, height, self._name)
        check_name(self._path)
        self._refuse_existing()
        self._temporary = self._make_temporary()
        try:
            if not self._suffix:
                self._sink: Encoder | PngFolder = PngFolder(self._temporary, self._name)
                return
            if timestamps is not None and self._suffix in (".avi", ".gif"):
                self.notices.append(
                    f"{self._suffix} keeps no time of each frame: evenly spaced at "
                    f"{float(rate):.3f} frames/s"
                )
                timestamps = None
            self._sink = Encoder(
                self._temporary,
                self._name,
                width,
                height,
                rate,
                crf=crf,
                lossless=lossless,
                color_matrix=color_matrix,
                audio_from=audio_from,
                timestamps=timestamps,
            )
            self.notices += self._sink.notices
        except BaseException:
            self._remove_temporary()
            raise

    def _check(
        self, fps: Fraction, crf: int, lossless: bool, matrix: str, audio: object
    ) -> Fraction:
        """Refuse arguments that cannot work; the rate to use."""
        suffix = self._suffix
        if suffix and suffix not in SUFFIXES:
            raise UsageError(
                f"{self._name}: unknown video suffix {suffix!r}",
                fix=f"Use one of {', '.join(SUFFIXES)}, or a folder name for PNG files.",
            )
        if not 0 <= crf <= _MAX_CRF:
            raise UsageError(f"crf {crf} is not between 0 and {_MAX_CRF}")
        if matrix not in ("bt709", "bt601"):
            raise UsageError(f"cannot write colour matrix {matrix!r}", fix="Use bt709 or bt601.")
        if audio is not None and suffix in ("", ".gif"):
            raise UsageError(f"{self._name} cannot hold sound", fix="Use .mp4, .mkv or .webm.")
        if lossless and suffix == ".gif":
            raise UsageError("GIF has 256 colours and is never lossless", fix="Use .mkv or PNGs.")
        if suffix == ".gif" and fps > _MAX_GIF_FPS:
            raise UsageError(f"GIF cannot hold {float(fps):g} frames/s", why="the limit is 100")
        rate = usable_rate(fps)
        if rate != fps:
            self.notices.append(f"the rate {fps} was rounded to {rate} frames/s")
        return rate

    def write(self, frames: FramesTHWC) -> None:
        """Add frames, uint8 RGB `[T, H, W, 3]`.

        Raises:
            UsageError: another dtype or number of dimensions.
            FrameSizeError: another size than announced.
            WriteError: they could not be written (disk full, ...).
        """
        if frames.dtype != np.uint8 or frames.ndim != 4:
            raise UsageError(
                f"frames must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}"
            )
        if frames.shape[1:] != self._shape:
            raise FrameSizeError(
                f"{self._name}: frames of shape {list(frames.shape[1:])} where "
                f"{list(self._shape)} was announced"
            )
        if len(frames):
            self._sink.write(np.ascontiguousarray(frames))
            self.frames_written += len(frames)

    # -- the temporary sibling -----------------------------------------------------------------

    def _refuse_existing(self) -> None:
        path, folder = self._path, not self._suffix
        if not os.path.lexists(path):
            return
        if path.is_dir() != folder:
            kind = "a folder" if path.is_dir() else "not a folder"
            raise OutputExistsError(f"{self._name} is {kind} already", fix="Choose another name.")
        if folder:
            if not holds_only_frames(path):
                raise OutputExistsError(
                    f"the folder {self._name} holds other things than frames",
                    fix="Choose another name: it is never replaced.",
                )
            if not any(path.iterdir()):
                return
        if not self._overwrite:
            raise OutputExistsError(
                f"{self._name} exists already",
                fix="Use --overwrite (overwrite=True) to replace it.",
            )

    def _make_temporary(self) -> Path:
        """A new empty file or folder beside the output: on the same disk, hidden, of its suffix."""
        target = self._path.absolute()
        temporary = target.with_name(f".pvtok-{secrets.token_hex(6)}{self._suffix}")
        try:
            if self._suffix:
                temporary.open("xb").close()
            else:
                temporary.mkdir()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise WriteError(
                f"cannot write {self._name}", why=f"{shown(target.parent)}: {why}"
            ) from error
        return temporary

    def _remove_temporary(self) -> None:
        if self._suffix:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        else:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _commit(self) -> None:
        """Make the file whole, safe on disk, and visible, in this order."""
        if self.frames_written == 0:
            raise WriteError(f"cannot write {self._name}", why="no frames were given")
        self._sink.finish()
        target = self._path.absolute()
        try:
            files = [self._temporary] if self._suffix else [*self._temporary.iterdir()]
            for file in files:
                _sync(file)
            self._refuse_existing()  # something may have appeared in the meantime
            if self._suffix:
                self._temporary.replace(target)
            else:
                _sync(self._temporary)
                replace_folder(self._temporary, target)
            _sync(target.parent)
        except OutputExistsError:
            raise
        except OSError as error:
            raise WriteError(
                f"cannot write {self._name}", why=error.strerror or str(error)
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        try:
            if error is None:
                self._commit()
        finally:
            # After a commit there is nothing left to stop or to remove.
            self._sink.abort()
            self._remove_temporary()
        return False


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
