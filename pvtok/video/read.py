"""Reading frames: every frame once, exactly, in bounded memory."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pvtok.errors import (
    CorruptVideoError,
    HdrVideoError,
    MissingDependencyError,
    UsageError,
    VideoError,
)
from pvtok.groups import FramesTHWC
from pvtok.video import color
from pvtok.video.binary import find_ffmpeg, frame_by_frame
from pvtok.video.damage import cut_short, damage_in
from pvtok.video.images import IMAGES_FPS, read_images
from pvtok.video.info import VideoInfo
from pvtok.video.limits import MAX_FRAMES, check_size
from pvtok.video.names import shown
from pvtok.video.options import ReadOptions
from pvtok.video.probe import open_input, probe
from pvtok.video.process import GLOBAL_ARGS, LogLine, Process
from pvtok.video.showinfo import NO_METADATA, is_beginning, parse_frame, parse_time_base

_SEEKABLE = ("mov", "matroska")
"""Containers in which a frame is found by its time exactly."""


class VideoReader:
    """Frames of a video, in order. A context manager, and an iterable that can be walked once.

    Yields uint8 RGB `[T, height, width, 3]` with `T <= chunk_frames`, each array its own. Leaving
    the context, or the iteration, stops ffmpeg at any point.

    Damage is reported when the reading has come to its end, after the frames before it were
    yielded: whoever keeps results must wait for the iteration to end well. With
    `options.max_frames` or `options.duration`, damage is a notice only if all that was asked for
    came.

    Attributes:
        info: what is known of the file.
        options: as given.
        width, height: of the frames that are yielded, after `options.size` and `options.crop`.
        fps: frames per second of what is yielded (the average where the rate varies).
        frames_read: how many have been yielded.
        notices: what was decided for the user, a sentence each.

    Raises:
        VideoError, CorruptVideoError, FrameSizeError, MissingDependencyError: as `probe` does.
        HdrVideoError: high dynamic range without `options.tonemap`.
        CorruptVideoError: while iterating, unless `options.allow_truncated`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: ReadOptions = ReadOptions(),  # noqa: B008  (frozen: one for all is safe)
        chunk_frames: int = 16,
    ) -> None:
        if chunk_frames < 1:
            raise UsageError(f"chunk_frames {chunk_frames} is not a positive number")
        self.info = probe(path)
        self._path, self.options, self._chunk_frames = Path(path), options, chunk_frames
        self._name = shown(os.fspath(path))
        if self.info.hdr and not options.tonemap:
            raise HdrVideoError(
                f"{self._name} is high dynamic range ({self.info.transfer})",
                why="its brightness does not fit ordinary video as it is",
                fix="Use --tonemap (tonemap=True) to have it mapped to BT.709.",
            )
        self._scaled = options.scaled(self.info.width, self.info.height)
        check_size(*self._scaled, self._name)
        side = options.size if options.crop else None
        self.width, self.height = (side, side) if side else self._scaled
        self.fps: Fraction = options.fps or self.info.fps
        self.frames_read = 0
        self.notices: list[str] = _notices(self.info, options)
        self._times: list[float] = []
        self._time_base = Fraction(0)
        self._begun, self._first_damage = False, ""
        self._sizes: set[tuple[int, int]] = set()
        self._process: Process | None = None
        self._started = False

    # -- iteration ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[FramesTHWC]:
        """Read from the start.

        Raises:
            CorruptVideoError: damaged or truncated (after the frames before the damage).
            VideoError: already read once, no frames in the range asked for, or too many.
        """
        if self._started:
            raise VideoError(f"{self._name} was read already", fix="Open a new VideoReader.")
        self._started = True
        chunks = self._read_images() if self.info.kind == "images" else self._read_video()
        try:
            for chunk in chunks:
                self.frames_read += len(chunk)
                if self.frames_read > MAX_FRAMES:
                    raise VideoError(f"{self._name} has more than {MAX_FRAMES} frames")
                yield chunk
        finally:
            chunks.close()
        if self.frames_read == 0:
            raise VideoError(
                f"no frames to read in {self._name}",
                why=f"asked from {self.options.start:g} s on and it lasts "
                f"{self.info.duration or 0:g} s",
            )

    def _read_images(self) -> Generator[FramesTHWC, None, None]:
        number = 0
        for chunk in read_images(self._path, self.options, self._chunk_frames):
            rate = self.options.fps or IMAGES_FPS
            self._times.extend(float((number + k) / rate) for k in range(len(chunk)))
            number += len(chunk)
            yield chunk

    def _read_video(self) -> Generator[FramesTHWC, None, None]:
        shape = (self._chunk_frames, self.height, self.width, 3)
        frame_bytes = self.height * self.width * 3
        total = 0
        with Process(self._command(), stdout=True, on_line=self._take) as process:
            self._process = process
            while True:
                # A fresh array for each chunk: whoever gets it may keep it.
                frames = np.empty(shape, np.uint8)
                filled = _fill(process, frames.data.cast("B"))
                whole = filled // frame_bytes
                if whole:
                    total += whole
                    yield frames[:whole]
                if filled < frames.nbytes:
                    break
            status = process.wait()
            self._judge(total, status, filled % frame_bytes, process.cause(status))
        self._process = None

    def _command(self) -> list[str]:
        """ffmpeg's command line for the file and the options."""
        options, info = self.options, self.info
        binary = find_ffmpeg()
        begin, seek = options.start + info.start if options.start else 0.0, {}
        if begin and info.container.startswith(_SEEKABLE):
            # Jumps to the keyframe before and counts time from there; other containers are
            # decoded from their start, because their indexes cannot be relied on.
            seek, begin = {"ss": f"{begin:.6f}"}, 0.0
        video = open_input(self._path, **seek)["V:0"]
        if begin or options.duration is not None:
            window = {"start": f"{begin:.6f}"} if begin else {}
            if options.duration is not None:
                since = begin if options.start else info.start
                window["end"] = f"{since + options.duration:.6f}"
            video = video.filter("trim", **window)
        # Before anything else `showinfo` sees each frame as it is stored, upright, with its time.
        video = video.filter("showinfo", checksum=0)
        if options.deinterlace and info.interlaced:
            # One frame for a frame (not for a field), so that the count stays.
            video = video.filter("bwdif", mode="send_frame", parity="auto", deint="all")
        if options.fps is not None:
            video = video.filter("fps", fps=f"{options.fps.numerator}/{options.fps.denominator}")
        matrix, color_range = options.color_matrix or info.color_matrix, info.color_range
        if info.hdr:
            video, matrix, color_range = color.tonemapped(video, info.transfer), "bt709", "limited"
        video = video.filter("scale", **color.to_rgb(*self._scaled, matrix, color_range))
        video = video.filter("setsar", sar="1")
        if options.crop:
            x, y = (self._scaled[0] - self.width) // 2, (self._scaled[1] - self.height) // 2
            video = video.filter("crop", w=self.width, h=self.height, x=x, y=y)
        output: dict[str, object] = {"f": "rawvideo", "pix_fmt": "rgb24", **NO_METADATA}
        output |= frame_by_frame(binary)
        # Fine enough that frames of a variable rate never share a tick.
        output["enc_time_base"] = "1:1000000"
        if options.max_frames is not None:
            output["frames:v"] = options.max_frames
        graph = video.output("pipe:1", **output).global_args(*GLOBAL_ARGS)
        command: list[str] = graph.compile(cmd=binary)
        return command

    # -- the log -----------------------------------------------------------------------------

    def _take(self, line: LogLine) -> None:
        """One line of ffmpeg's log. Called by the thread that reads it."""
        self._first_damage = self._first_damage or damage_in(line, begun=self._begun)
        if not self._begun:
            self._begun = is_beginning(line.text)
        elif frame := parse_frame(line.text):
            if frame.pts is not None and self._time_base:
                self._times.append(float(frame.pts * self._time_base))
            else:
                self._times.append(float(len(self._times) / self.fps))
            self._sizes.add((frame.width, frame.height))
        elif not self._time_base and (found := parse_time_base(line.text)):
            self._time_base = found[0]

    @property
    def timestamps(self) -> list[float]:
        """Seconds of each frame read so far, relative to the first."""
        count = self.frames_read
        if self.options.fps is not None:
            return [float(k / self.options.fps) for k in range(count)]
        # ffmpeg names a frame in its log before it hands it out, but the log's reader may be a
        # moment behind.
        patience = time.monotonic() + 5
        while len(self._times) < count and self._logging() and time.monotonic() < patience:
            time.sleep(0.001)
        times = self._times[:count]
        return [t - times[0] for t in times]

    def _logging(self) -> bool:
        return self._process is not None and self._process.logging

    def _judge(self, total: int, status: int, left_over: int, cause: str) -> None:
        """Decide, once ffmpeg has ended, whether what it gave is the whole of what was asked.

        Args:
            total: whole frames that came.
            status: ffmpeg's exit status.
            left_over: bytes of a frame that did not come whole.
            cause: ffmpeg's own words, should it have failed.
        """
        options = self.options
        if status != 0 and "No such filter" in cause:
            raise MissingDependencyError(
                f"this ffmpeg cannot do what {self._name} needs",
                why=cause,
                fix="Use a full build, such as the one in imageio-ffmpeg.",
            )
        damage = ""
        if status != 0 or left_over:
            damage = cause
        elif self._first_damage:
            damage = f"ffmpeg: {self._first_damage}"
        elif not options.start and options.duration is None:
            damage = cut_short(self._path)
        if not damage and not total and not options.start:
            damage = "no frame of it can be decoded"
        reached = status == 0 and self._reached(total)
        if damage and not reached and not (options.allow_truncated and total):
            claim = f" of {self.info.frames}" if (self.info.frames or 0) > total else ""
            raise CorruptVideoError(
                f"{self._name} is damaged or truncated: {total}{claim} frames can be read",
                why=damage,
                fix="Use allow_truncated (--allow-truncated) to take those." if total else "",
            )
        if damage:
            self.notices.append(
                f"damaged or truncated: {total} frames were read, the last ones may be wrong "
                f"({damage})"
            )
        elif self._read_all() and self.info.frames and total < self.info.frames:
            self.notices.append(
                f"the file lists {self.info.frames} frames and {total} hold a picture"
            )
        if len(self._sizes) > 1:
            self.notices.append(
                "the frame size changes within the video: all were scaled to "
                f"{self.width}x{self.height}"
            )

    def _reached(self, total: int) -> bool:
        """Whether all that was asked for came, so that what ffmpeg met beyond is no matter."""
        options = self.options
        if options.max_frames is not None and total == options.max_frames:
            return True
        if options.duration is None or not self._times:
            return False
        return self._times[-1] - self._times[0] + 1.5 / float(self.info.fps) >= options.duration

    def _read_all(self) -> bool:
        o = self.options
        return not o.start and o.duration is None and o.max_frames is None and o.fps is None

    # -- context -----------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading. Safe to call at any time, and again."""
        if self._process is not None:
            self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_frames(
    path: str | os.PathLike[str],
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> FramesTHWC:
    """All frames of a video at once, uint8 RGB `[T, H, W, 3]`. See `VideoReader`."""
    with VideoReader(path, options, chunk_frames=64) as reader:
        return np.concatenate(list(reader))


def _fill(process: Process, buffer: memoryview) -> int:
    """Read from ffmpeg until the buffer is full or the stream ends; how many bytes came."""
    filled = 0
    while filled < len(buffer):
        # Unbuffered, straight into the array: no copy and no Python work per frame.
        got = process.stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not got:
            break
        filled += got
    return filled


def _notices(info: VideoInfo, options: ReadOptions) -> list[str]:
    """What is decided for the user before a frame is read."""
    told = []
    if info.hdr:
        told.append(f"high dynamic range ({info.transfer}) was tone-mapped to BT.709")
    elif info.color_assumed and options.color_matrix is None:
        told.append(f"the file does not state its colour matrix: {info.color_matrix} assumed")
    if info.rotation:
        told.append(f"frames were turned by {info.rotation} degrees, as the file asks")
    if info.sample_aspect != 1:
        told.append(
            f"pixels are not square ({info.sample_aspect}): frames were scaled to "
            f"{info.width}x{info.height}"
        )
    if info.interlaced and not options.deinterlace:
        told.append("the video is interlaced and its fields were left woven")
    if info.variable_rate and options.fps is None:
        told.append(
            f"the frame rate varies: every frame was read once, on average {float(info.fps):.3f}/s"
        )
    if info.video_streams > 1:
        told.append(f"the file has {info.video_streams} video streams: the first was read")
    return told
