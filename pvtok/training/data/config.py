"""What is configured of the data, with every range checked where the value is given."""

from __future__ import annotations

from dataclasses import dataclass

from pvtok.errors import UsageError
from pvtok.groups import frames_in, whole_groups


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are varied.

    Attributes:
        videos: folders (searched in depth), files and manifests, see `pvtok.media.find_media`.
        images: the same for images.
        procedural: share of the samples that are rendered moving scenes; 1.0 needs no files.
        short_side: pixels to which a video's shorter side is scaled before a crop is cut out. Where
            a crop is larger, it is scaled to the crop.
        cache: folder for videos decoded once, whole, as memory-mapped arrays, when they are first
            needed. A video with damage anywhere is left out. It takes
            3 * frames * height * width bytes a video: 0.35 MB a frame of 256x456. None decodes the
            window of each sample from its file, and sees the damage that keeps it from that.
        max_frames: use no more than the first frames of each video.
        hold_out: keep every n-th file for validation and never train on it; 0 keeps none.
        flip: mirror half of the samples left to right.
        reverse: turn half of the samples around in time (paper, figure 2).
        workers: processes that prepare batches ahead; 0 prepares them when they are asked for.
    """

    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    procedural: float = 0.0
    short_side: int = 256
    cache: str | None = None
    max_frames: int | None = None
    hold_out: int = 0
    flip: bool = True
    reverse: bool = True
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("videos", "images"):
            paths = getattr(self, name)
            if isinstance(paths, str):  # would be taken for a list of letters
                raise UsageError(f"{name} {paths!r} is not a list", fix=f"Write [{paths!r}].")
        if not 0 <= self.procedural <= 1:
            raise UsageError(f"procedural {self.procedural} is not a share from 0 to 1")
        if self.procedural < 1 and not self.videos and not self.images:
            raise UsageError(
                "there is nothing to train on",
                why=f"no videos and no images are named, and procedural is {self.procedural:g}",
                fix="Name videos or images, or set procedural = 1.0.",
            )
        if self.short_side < 16:
            raise UsageError(f"short_side {self.short_side} is below 16 pixels")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"max_frames {self.max_frames} is not a positive number")
        if self.hold_out < 0 or self.hold_out == 1:
            raise UsageError(
                f"hold_out {self.hold_out} would leave nothing to train on"
                if self.hold_out == 1
                else f"hold_out {self.hold_out} is negative",
                fix="Use 0 to hold out nothing, or n > 1 to hold out every n-th file.",
            )
        if self.workers < 0:
            raise UsageError(f"workers {self.workers} is negative")


@dataclass(frozen=True)
class BatchShape:
    """The shape of one process's batch: `batch` clips of `frames` squares of `size` pixels."""

    frames: int
    size: int
    batch: int

    def __post_init__(self) -> None:
        if self.frames < 1 or frames_in(whole_groups(self.frames)) != self.frames:
            raise UsageError(f"frames {self.frames} is not 1 + 4n", fix="Use 1, 5, 9, 13, 17, ...")
        if self.size < 16 or self.size % 16:
            raise UsageError(f"size {self.size} is not a positive multiple of 16")
        if self.batch < 1:
            raise UsageError(f"batch {self.batch} is not a positive number")
