"""Describing a video with the ffmpeg binary alone: ffprobe need not be there.

One run of ffmpeg decodes the first frame, whose properties count (containers are often wrong about
them), and lists the times of the first packets without decoding them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import ffmpeg

from pvtok.errors import CorruptVideoError, FrameSizeError, VideoError
from pvtok.video import color, images
from pvtok.video.binary import find_ffmpeg
from pvtok.video.info import VideoInfo
from pvtok.video.limits import FORMATS, MAX_PIXELS, PROTOCOLS, check_size
from pvtok.video.names import IMAGE_SUFFIXES, input_file, local_url, shown
from pvtok.video.process import GLOBAL_ARGS, LogLine, Process
from pvtok.video.showinfo import (
    NO_METADATA,
    ShownColors,
    ShownFrame,
    is_beginning,
    parse_colors,
    parse_frame,
    parse_time_base,
)

MAX_PACKETS = 2000
"""Packets that are listed. A longer video's frame count is an estimate from its duration."""

MAX_REORDER = 32
"""Frames by which coding order and display order may differ, at most (H.264, HEVC: 16)."""

_DEFAULT_FPS = Fraction(25)
_NO_TIME = -(1 << 63)

# Anchored at two spaces: what a file says of itself (titles, comments) is printed further in.
_STREAM = re.compile(r"  Stream #0:\d+.*?: (Video|Audio): (\w+)(.*)")
_INPUT = re.compile(r"Input #0, (\S+), from ")
_DURATION = re.compile(r"  Duration: (\d+):(\d\d):(\d\d\.\d+)")
_ROTATION = re.compile(r"\s+Display ?Matrix: rotation of (-?[\d.]+) degrees", re.IGNORECASE)
_SIZE = re.compile(r", (\d+)x(\d+)")


@dataclass
class _Seen:
    """What the log of one probing run tells. `take` is called with each line."""

    container: str = ""
    duration: float | None = None
    video: list[tuple[str, str]] = field(default_factory=list)
    audio: list[str] = field(default_factory=list)
    rotation: int = 0
    time_base: Fraction = Fraction(0)
    rate: Fraction | None = None
    frame: ShownFrame | None = None
    colors: ShownColors = field(default_factory=ShownColors)
    _begun: bool = False

    def take(self, line: LogLine) -> None:
        text = line.text
        if self._begun:
            self._take_shown(text)
        elif is_beginning(text):
            self._begun = True
        elif match := _INPUT.match(text):
            self.container = match[1]
        elif match := _STREAM.match(text):
            if match[1] == "Audio":
                self.audio.append(match[2])
            elif "(attached pic)" not in text:  # the cover of a sound file is no video
                self.video.append((match[2], match[3]))
        elif match := _DURATION.match(text):
            self.duration = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        elif len(self.video) == 1 and (match := _ROTATION.match(text)):
            # ffmpeg counts counter-clockwise.
            self.rotation = round(-float(match[1])) % 360

    def _take_shown(self, text: str) -> None:
        if self.frame is None and (frame := parse_frame(text)):
            self.frame = frame
        if not self.time_base and (found := parse_time_base(text)):
            self.time_base, self.rate = found
        parse_colors(text, self.colors)


@dataclass(frozen=True)
class Timing:
    """Spacing of the packets that were listed."""

    packets: int
    complete: bool
    duration: Fraction | None
    fps: Fraction | None
    variable: bool | None


def open_input(path: Path, **options: object) -> ffmpeg.nodes.FilterableStream:
    """ffmpeg's input node of a local file, fenced in: see `limits`."""
    return ffmpeg.input(
        local_url(path),
        protocol_whitelist=PROTOCOLS,
        format_whitelist=FORMATS,
        max_pixels=MAX_PIXELS,
        **options,
    )


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video, a GIF, an image or a folder of images.

    Raises:
        VideoError: missing, unreadable, of no format that is read, or without pictures.
        CorruptVideoError: empty, or too damaged to show its first frame.
        FrameSizeError: frames beyond the limits, or images of different sizes in a folder.
        MissingDependencyError: no ffmpeg.
    """
    name = os.fspath(path)
    source = input_file(name)
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        return images.probe_images(source, name)
    binary = find_ffmpeg()
    node = open_input(source, threads=1)
    first = (
        node["V:0"]
        .filter("showinfo", checksum=0)
        .output("pipe:", f="null", **NO_METADATA, **{"frames:v": 1})
    )
    packets = node["V:0"].output(
        "pipe:1", f="framecrc", c="copy", copyinkf=None, **NO_METADATA, **{"frames:v": MAX_PACKETS}
    )
    graph = ffmpeg.merge_outputs(first, packets).global_args(*GLOBAL_ARGS)
    seen = _Seen()
    with Process(graph.compile(cmd=binary), stdout=True, on_line=seen.take) as process:
        listing = _read_all(process)
        process.wait()
        cause = process.cause()
    if seen.container and not seen.video:
        has = "it holds sound only" if seen.audio else "it holds no pictures"
        raise VideoError(f"{shown(name)} has no video stream", why=has)
    if seen.frame is None:
        _refuse(name, cause)
    return _describe(name, seen, timing(listing))


def audio_codec(path: str | os.PathLike[str]) -> str:
    """ffmpeg's name of the coding of the file's first sound stream, or "" without one.

    Raises:
        VideoError, CorruptVideoError: the file cannot be opened.
    """
    name = os.fspath(path)
    graph = open_input(input_file(name)).output("pipe:", f="null", t=0, **{"map": "0:a?"})
    seen = _Seen()
    with Process(
        graph.global_args(*GLOBAL_ARGS).compile(cmd=find_ffmpeg()), on_line=seen.take
    ) as process:
        process.wait()
        cause = process.cause()
    if not seen.container:
        _refuse(name, cause)
    return seen.audio[0] if seen.audio else ""


def _read_all(process: Process) -> str:
    blocks = []
    while block := process.stdout.read(1 << 16):
        blocks.append(block)
    return b"".join(blocks).decode("ascii", errors="replace")


def _refuse(name: str, cause: str) -> None:
    """Raise the error that fits a file of which no frame could be shown."""
    if "not on whitelist" in cause or "No such filter" in cause:
        raise VideoError(
            f"cannot read {shown(name)}",
            why="its container is not one of those read (playlists and scripts are refused)",
        )
    if "exceeds specified max pixel count" in cause or "Picture size" in cause:
        raise _too_large(name, cause)
    raise CorruptVideoError(f"cannot read {shown(name)}: damaged or not a video", why=cause)


def _describe(name: str, seen: _Seen, times: Timing) -> VideoInfo:
    assert seen.frame is not None
    frame, (codec, rest) = seen.frame, seen.video[0]
    colors = seen.colors
    size = _SIZE.search(rest)
    coded = (int(size[1]), int(size[2])) if size else (frame.width, frame.height)
    # Square pixels: the height stays and the width follows, as players do.
    width = max(1, round(frame.width * frame.sample_aspect))
    check_size(width, frame.height, shown(name))
    matrix, color_range, assumed = color.resolve(
        frame.pix_fmt, colors.space, colors.range, coded[1], shown(name)
    )
    turned = seen.rotation % 180 == 90
    fps = _rate(seen.rate, times)
    duration = float(times.duration) if times.complete and times.duration else seen.duration
    frames = times.packets if times.complete else None
    if frames is None and duration is not None:
        frames = round(duration * fps)
    return VideoInfo(
        path=name,
        width=width,
        height=frame.height,
        coded_width=coded[0],
        coded_height=coded[1],
        fps=fps,
        frames=frames or None,
        duration=duration,
        codec=codec,
        pix_fmt=frame.pix_fmt,
        rotation=seen.rotation,
        sample_aspect=1 / frame.sample_aspect if turned else frame.sample_aspect,
        color_matrix=matrix,
        color_range=color_range,
        color_assumed=assumed,
        hdr=color.is_hdr(colors.space, colors.primaries, colors.transfer),
        transfer=colors.transfer,
        interlaced=frame.interlaced,
        variable_rate=times.variable,
        has_audio=bool(seen.audio),
        audio_codec=seen.audio[0] if seen.audio else "",
        video_streams=len(seen.video),
        container=seen.container,
        start=float((frame.pts or 0) * seen.time_base),
        kind="gif" if seen.container == "gif" else "video",
    )


def _rate(stated: Fraction | None, times: Timing) -> Fraction:
    """Frames per second: what the file states unless its own packets contradict it."""
    if times.fps is None:
        return stated or _DEFAULT_FPS
    if stated is not None and not times.variable and abs(stated / times.fps - 1) < Fraction(1, 100):
        return stated
    return times.fps


def timing(listing: str) -> Timing:
    """Spacing of frames from a listing of packets by ffmpeg's `framecrc` muxer.

    A line is "stream, dts, pts, duration, size, checksum[, F=flags]", times in units of the time
    base that a line "#tb 0: 1/12800" gives.
    """
    base = Fraction(1, 1)
    times: list[int] = []
    count = last_duration = 0
    for line in listing.splitlines():
        if line.startswith("#tb 0:"):
            base = Fraction(line.split(":")[1].strip())
        elif line.startswith("0,"):
            fields = [f.strip() for f in line.split(",")]
            if any(f.startswith("F=") and int(f[2:], 16) & 4 for f in fields[6:]):
                continue  # to be decoded and thrown away (before an edit list's start)
            count += 1
            dts, pts = int(fields[1]), int(fields[2])
            # Old containers such as AVI know the time of decoding only.
            time = dts if pts == _NO_TIME else pts
            if time != _NO_TIME:
                times.append(time)
            last_duration = int(fields[3])
    complete = count < MAX_PACKETS
    times.sort()
    if not complete:
        # Packets come in the order of decoding: the last listed leave gaps for those behind them.
        times = times[:-MAX_REORDER]
    span = times[-1] - times[0] if times else 0
    if len(times) < 2 or span <= 0 or (complete and len(times) != count):
        whole = base * last_duration if count == 1 and last_duration > 0 else None
        return Timing(count, complete, whole, None, None if count != 1 else False)
    step = Fraction(span, len(times) - 1)
    # Rounding to the time base is no variation, nor is a camera's slight unsteadiness.
    slack = max(Fraction(1), step / 20)
    variable = any(abs(t - times[0] - k * step) > slack for k, t in enumerate(times))
    if variable:
        duration = base * (span + max(last_duration, 0))
        return Timing(count, complete, duration, len(times) / duration, True)
    duration = base * step * len(times)  # of what was listed
    return Timing(count, complete, duration, (1 / (base * step)).limit_denominator(1001), False)


def _too_large(name: str, cause: str) -> FrameSizeError:
    return FrameSizeError(
        f"{shown(name)}: frames are too large", why=cause, fix="Scale the video down first."
    )
