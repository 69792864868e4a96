"""What the reader is asked to do to the frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from pvtok.errors import UsageError
from pvtok.video.color import MATRICES


@dataclass(frozen=True)
class ReadOptions:
    """How to read a video. The defaults read every frame as it is.

    Attributes:
        size: pixels of the shorter side after scaling (the longer one keeps the proportion,
            rounded to a pixel); None keeps the size.
        crop: cut the centre `size` x `size` out.
        start: seconds after the first frame at which to begin: with the first frame not earlier.
        duration: seconds to read: the frames that begin within them; None reads to the end.
        max_frames: stop after this many frames.
        fps: resample to this rate, by repeating and dropping frames; None keeps every frame once.
        color_matrix: read YUV as "bt709", "bt601", ... whatever the file says.
        tonemap: bring high dynamic range down to BT.709; without it such a video is refused.
        deinterlace: turn woven fields into whole frames, as many as before.
        allow_truncated: use what can be read of a damaged file instead of refusing it.
    """

    size: int | None = None
    crop: bool = False
    start: float = 0.0
    duration: float | None = None
    max_frames: int | None = None
    fps: Fraction | None = None
    color_matrix: str | None = None
    tonemap: bool = False
    deinterlace: bool = False
    allow_truncated: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"size {self.size} is not a positive number of pixels")
        if self.crop and self.size is None:
            raise UsageError("crop needs a size", fix="Give the size of the square to cut out.")
        # Written so that NaN fails too.
        if not 0 <= self.start < float("inf"):
            raise UsageError(f"start {self.start} is not a number of seconds from 0 on")
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise UsageError(f"duration {self.duration} is not a positive number of seconds")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"max_frames {self.max_frames} is not a positive number")
        if self.fps is not None and self.fps <= 0:
            raise UsageError(f"fps {self.fps} is not a positive rate")
        if self.color_matrix is not None and self.color_matrix not in MATRICES:
            raise UsageError(
                f"unknown colour matrix {self.color_matrix!r}", fix=f"Use one of {MATRICES}."
            )

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after `size`, before `crop`."""
        if self.size is None:
            return width, height
        short = min(width, height)
        # Rounds halves up; never below the short side's own size, so the crop always fits.
        return tuple(max(1, (2 * s * self.size + short) // (2 * short)) for s in (width, height))  # type: ignore[return-value]
