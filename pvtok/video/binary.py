"""Finding an ffmpeg to run, and what its version can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache

from pvtok.errors import MissingDependencyError

ENVIRONMENT_VARIABLE = "PVTOK_FFMPEG"

_FIX = (
    f"Install ffmpeg, or `pip install imageio-ffmpeg`, or set ${ENVIRONMENT_VARIABLE} to a binary."
)


def find_ffmpeg() -> str:
    """Path of the ffmpeg to use: `$PVTOK_FFMPEG`, else the one on PATH, else imageio-ffmpeg's.

    Raises:
        MissingDependencyError: none is there, or `$PVTOK_FFMPEG` names one that does not run. A
            binary that was asked for by name is never silently replaced by another.
    """
    asked = os.environ.get(ENVIRONMENT_VARIABLE)
    if asked:
        found = shutil.which(asked)
        if found is None:
            raise MissingDependencyError(
                f"${ENVIRONMENT_VARIABLE}={asked!r} cannot be used",
                why="no such executable file",
                fix=f"Point it at an ffmpeg binary, or unset {ENVIRONMENT_VARIABLE}.",
            )
        ffmpeg_version(found)
        return found
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError("no ffmpeg found", why=str(error), fix=_FIX) from error


@lru_cache(maxsize=8)
def ffmpeg_version(binary: str) -> str:
    """Version that a binary states for itself, such as "7.0.2-static" or "n6.1".

    Raises:
        MissingDependencyError: the binary does not run, or is no ffmpeg.
    """
    try:
        done = subprocess.run(
            [binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        why = f"exit status {done.returncode}" if done.returncode else "it is not ffmpeg"
        match = re.match(r"ffmpeg version (\S+)", done.stdout.decode(errors="replace"))
        if match and done.returncode == 0:
            return match[1]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise MissingDependencyError(f"ffmpeg at {binary!r} does not run", why=why, fix=_FIX)


def frame_by_frame(binary: str) -> dict[str, str]:
    """Output option by which every frame passes once: none dropped, none repeated."""
    release = re.match(r"n?(\d+)\.(\d+)", ffmpeg_version(binary))
    # Development builds carry no release number; they are taken to be recent.
    old = release is not None and (int(release[1]), int(release[2])) < (5, 1)
    return {"vsync": "passthrough"} if old else {"fps_mode": "passthrough"}
