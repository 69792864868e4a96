"""Frames into a video file through ffmpeg."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import ffmpeg
import numpy as np

from pvtok.errors import MissingDependencyError, UsageError, VideoError, WriteError
from pvtok.groups import FramesTHWC
from pvtok.video import color
from pvtok.video.binary import find_ffmpeg, frame_by_frame
from pvtok.video.names import local_url, shown
from pvtok.video.probe import audio_codec, open_input
from pvtok.video.process import GLOBAL_ARGS, Process

# Suffix -> ffmpeg's muxer, codecs of sound that it carries as they are (None: any), and the
# encoder for all others.
_CONTAINERS: dict[str, tuple[str, frozenset[str] | None, str]] = {
    ".mp4": ("mp4", frozenset({"aac", "mp3", "ac3", "eac3", "alac"}), "aac"),
    ".mov": ("mov", frozenset({"aac", "mp3", "ac3", "alac", "pcm_s16le"}), "aac"),
    ".mkv": ("matroska", None, "aac"),
    ".webm": ("webm", frozenset({"opus", "vorbis"}), "libopus"),
    ".avi": ("avi", frozenset({"mp3", "ac3", "pcm_s16le"}), "libmp3lame"),
    ".gif": ("gif", frozenset(), ""),
}
SUFFIXES = tuple(_CONTAINERS)

_TICKS = 90_000
"""Ticks of a second for frames with times of their own: the customary clock of MPEG."""

_MAX_RATE_TERM = 1_001_000
"""Largest numerator or denominator that ffmpeg takes for a frame rate."""

_MIN_TIMESCALE = 10_000
"""Ticks of a second in an MP4, at least, so that sound can be aligned."""


class Encoder:
    """A running ffmpeg that takes frames and makes a file of them.

    The file is whole only after `finish`; `abort` stops at any point. Frames go in as raw RGB.
    With times of their own they travel in IVF, the simplest container there is: a header of 32
    bytes, and 12 bytes with size and time before each frame.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        width: int,
        height: int,
        fps: Fraction,
        *,
        crf: int,
        lossless: bool,
        color_matrix: str,
        audio_from: str | os.PathLike[str] | None,
        timestamps: Sequence[float] | None,
    ) -> None:
        self.notices: list[str] = []
        self._name = name
        self._ticks = None if timestamps is None else to_ticks(timestamps)
        self._count = 0
        binary = find_ffmpeg()
        suffix = file.suffix.lower()
        if self._ticks is None:
            source = ffmpeg.input(
                "pipe:0",
                f="rawvideo",
                pix_fmt="rgb24",
                s=f"{width}x{height}",
                framerate=f"{fps.numerator}/{fps.denominator}",
            )
        else:
            source = ffmpeg.input("pipe:0", f="ivf", **{"c:v": "rawvideo"})
        options: dict[str, object] = {"f": _CONTAINERS[suffix][0], **frame_by_frame(binary)}
        if self._ticks is not None:
            options["enc_time_base"] = f"1:{_TICKS}"
        if suffix == ".gif":
            video = _paletted(source)
        else:
            pix_fmt = pixel_format(suffix, width, height, lossless)
            video = source.filter("scale", **color.from_rgb(width, height, color_matrix))
            video = video.filter("format", pix_fmt).filter("setparams", **color.tags(color_matrix))
            options |= codec_options(suffix, crf, lossless)
            if pix_fmt == "yuv444p" and not lossless:
                self.notices.append(
                    f"{width}x{height} is odd: written as 4:4:4 to keep it exact, which some "
                    "players (phones, QuickTime) do not show; .webm has no such limit"
                )
        if suffix in (".mp4", ".mov"):
            # A whole number of ticks for each frame, so that the rate is kept exactly.
            scale = fps.numerator if self._ticks is None else _TICKS
            options["video_track_timescale"] = scale * -(-_MIN_TIMESCALE // scale)
        streams = [video]
        if audio_from is not None:
            streams.append(open_input(Path(audio_from))["a:0"])
            options["c:a"] = self._audio_codec(suffix, audio_from)
        graph = ffmpeg.output(*streams, local_url(file), **options)
        graph = graph.global_args(*GLOBAL_ARGS).overwrite_output()
        self._process = Process(graph.compile(cmd=binary), stdin=True)
        if self._ticks is not None:
            self._send(_ivf_header(width, height))

    def _audio_codec(self, suffix: str, source: str | os.PathLike[str]) -> str:
        """ "copy" where the container carries the source's sound as it is, else an encoder."""
        found = audio_codec(source)
        if not found:
            raise VideoError(f"{shown(os.fspath(source))} has no sound to take")
        _, carried, encoder = _CONTAINERS[suffix]
        if carried is None or found in carried:
            return "copy"
        self.notices.append(f"the sound was encoded anew ({found} to {encoder}) for {suffix}")
        return encoder

    def write(self, frames: FramesTHWC) -> None:
        """Hand over frames `[T, H, W, 3]`; blocks while ffmpeg is busy.

        Raises:
            WriteError: ffmpeg has stopped (the disk is full, ...).
            UsageError: more frames than times.
        """
        if self._ticks is None:
            self._send(frames.data.cast("B"))
        else:
            if self._count + len(frames) > len(self._ticks):
                raise UsageError(f"more frames than the {len(self._ticks)} timestamps given")
            for k, frame in enumerate(frames, self._count):
                self._send(struct.pack("<IQ", frame.nbytes, self._ticks[k]))
                self._send(frame.data.cast("B"))
        self._count += len(frames)

    def finish(self) -> None:
        """Let ffmpeg complete the file.

        Raises:
            WriteError: it could not.
            UsageError: fewer frames than times.
        """
        if self._ticks is not None and self._count != len(self._ticks):
            raise UsageError(f"{self._count} frames but {len(self._ticks)} timestamps were given")
        if status := self._process.wait():
            raise self._failure(status)
        self._process.close()

    def abort(self) -> None:
        """Stop at once, whatever the file is like. Safe to call again."""
        self._process.close()

    def _send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except (BrokenPipeError, ValueError) as error:
            raise self._failure(self._process.wait()) from error

    def _failure(self, status: int) -> WriteError | MissingDependencyError:
        cause = self._process.cause(status)
        if "Unknown encoder" in cause or "No such filter" in cause:
            return MissingDependencyError(
                f"this ffmpeg cannot write {self._name}",
                why=cause,
                fix="Use a full build, such as the one in imageio-ffmpeg, or another suffix.",
            )
        return WriteError(f"cannot write {self._name}", why=cause)


def pixel_format(suffix: str, width: int, height: int, lossless: bool) -> str:
    """How frames are stored.

    4:2:0 is what every player shows. H.264 cannot hold an odd size in it (its cropping counts
    pairs of pixels) and neither padding nor cutting would be exact, so odd sizes are 4:4:4 there:
    ffmpeg, VLC, mpv and Chrome play it, many phones and QuickTime do not. VP9 has no such limit.
    """
    if lossless:
        # Two more bits than the frames have: then 8-bit RGB comes back to the last bit, which
        # 8-bit YUV cannot do.
        return "yuv444p10le"
    odd = width % 2 or height % 2
    return "yuv444p" if odd and suffix != ".webm" else "yuv420p"


def codec_options(suffix: str, crf: int, lossless: bool) -> dict[str, object]:
    """ffmpeg's options for the picture.

    Args:
        crf: quality on x264's scale of 0 (best) to 51.
    """
    if suffix == ".webm":
        options: dict[str, object] = {
            "c:v": "libvpx-vp9",
            "deadline": "good",
            "cpu-used": 4,
            "row-mt": 1,
        }
        # VP9's scale goes to 63 and means a target only with a bit rate of 0.
        quality = {"lossless": 1} if lossless else {"crf": round(crf * 63 / 51), "b:v": 0}
        return options | quality
    options = {"c:v": "libx264", "preset": "medium"} | ({"qp": 0} if lossless else {"crf": crf})
    if suffix == ".avi":
        # AVI stores no display times, so frames must be coded in the order they are shown in.
        options["bf"] = 0
    if suffix in (".mp4", ".mov"):
        # The index in front: a browser can play before all is loaded.
        options["movflags"] = "+faststart"
    return options


def usable_rate(fps: Fraction) -> Fraction:
    """The rate, or the nearest one that ffmpeg can take.

    Raises:
        UsageError: not positive.
    """
    if fps <= 0:
        raise UsageError(f"fps {fps} is not a positive rate")
    if max(fps.numerator, fps.denominator) <= _MAX_RATE_TERM:
        return fps
    return fps.limit_denominator(max(1, int(_MAX_RATE_TERM / (fps + 1))))


def to_ticks(timestamps: Sequence[float]) -> list[int]:
    """Times in seconds as ticks from the first one on.

    Raises:
        UsageError: they do not grow from frame to frame.
    """
    if not np.all(np.isfinite(np.asarray(timestamps, dtype=np.float64))):
        raise UsageError("timestamps must be finite numbers of seconds")
    ticks = [round((t - timestamps[0]) * _TICKS) for t in timestamps]
    for k, (before, after) in enumerate(pairwise(ticks), 1):
        if after <= before:
            raise UsageError(
                f"timestamps must grow: frame {k} at {timestamps[k]} s follows "
                f"{timestamps[k - 1]} s"
            )
    return ticks


def _ivf_header(width: int, height: int) -> bytes:
    # "RGB" and the bits of a pixel is ffmpeg's tag of raw RGB. Frame count 0: not known yet.
    return b"DKIF" + struct.pack("<HH4sHHIIII", 0, 32, b"RGB\x18", width, height, _TICKS, 1, 0, 0)


def _paletted(source: ffmpeg.nodes.FilterableStream) -> ffmpeg.nodes.FilterableStream:
    # A palette for each frame: better colours than one for all, and only one frame is held at a
    # time where a common palette would hold the whole video in memory.
    split = source.filter_multi_output("split")
    palette = split[0].filter("palettegen", stats_mode="single")
    return ffmpeg.filter([split[1], palette], "paletteuse", new=1)
