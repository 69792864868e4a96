"""VMAF through ffmpeg's `libvmaf` filter.

Source: Li et al. 2016, "Toward A Practical Perceptual Video Quality Metric" (Netflix); model
`vmaf_v0.6.1`, trained for 1080p seen from three screen heights. Frames are scored at their own
size, so scores of small videos compare with each other, not with those of 1080p.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from pvtok.errors import MissingDependencyError, PvtokError, UsageError
from pvtok.groups import FramesTHWC

VMAF_MODEL = "vmaf_v0.6.1"
VMAF_MIN_SIDE = 32
"""Shortest side VMAF is computed for: libvmaf crashes on frames of 16 pixels."""

VMAF_PROTOCOL = (
    f"VMAF: libvmaf, model {VMAF_MODEL}, mean over frames, at the frames' own size, "
    "RGB converted to BT.709 limited-range yuv420p (accurate rounding)"
)

_TO_YUV = (
    "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    ":in_range=pc:out_range=tv:out_color_matrix=bt709,format=yuv420p"
)


def why_no_vmaf(ffmpeg: str, width: int, height: int) -> str | None:
    """Why VMAF cannot be had for frames of this size with this ffmpeg; None where it can."""
    if min(width, height) < VMAF_MIN_SIDE:
        return f"needs sides of at least {VMAF_MIN_SIDE} pixels, the frames are {width}x{height}"
    if os.name != "posix":
        return "needs POSIX pipes"
    if not _has_libvmaf(ffmpeg):
        return f"ffmpeg at {ffmpeg} was built without libvmaf"
    return None


def vmaf(
    reference: Iterable[FramesTHWC],
    reconstruction: Iterable[FramesTHWC],
    width: int,
    height: int,
    fps: float | Fraction,
    ffmpeg: str,
) -> float:
    """Mean VMAF of a clip, 0 to 100.

    Both streams go to ffmpeg through pipes, each fed by a thread of its own, so memory is bounded
    for clips of any length and nothing is written to disk but the log.

    Args:
        reference, reconstruction: chunks uint8 `[T, H, W, 3]`; the chunks may be cut differently.
            Each is iterated in another thread than the caller's.
        width, height: frame size, pixels.
        fps: frames per second; labels the streams, the score does not depend on it.
        ffmpeg: path of the binary.

    Raises:
        MissingDependencyError: this ffmpeg cannot compute VMAF of such frames (see `why_no_vmaf`).
        UsageError: a chunk is not uint8 of that size, or the streams differ in length or are empty.
        PvtokError: ffmpeg failed; carries its last lines.
    """
    if fps <= 0:
        raise UsageError(f"{fps} frames per second", why="a rate is above zero")
    if reason := why_no_vmaf(ffmpeg, width, height):
        raise MissingDependencyError("VMAF is not available", why=reason)
    with tempfile.TemporaryDirectory(prefix="pvtok-vmaf-") as folder:
        stop = threading.Event()
        feeds = [
            _Feed("reconstruction", reconstruction, width, height, stop),
            _Feed("reference", reference, width, height, stop),
        ]
        stderr = _run(ffmpeg, feeds, width, height, fps, Path(folder))
        log = Path(folder, "vmaf.json")
        if stderr is not None or not log.is_file():
            raise PvtokError("ffmpeg could not compute VMAF", why=stderr or "it wrote no log")
        scores = [frame["metrics"]["vmaf"] for frame in json.loads(log.read_text())["frames"]]
    counts = {feed.name: feed.frames for feed in feeds}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise UsageError(
            f"{counts['reference']} reference frames and {counts['reconstruction']} reconstructed",
            why="VMAF compares streams of equal length, of at least one frame",
        )
    if len(scores) != feeds[0].frames:
        raise PvtokError(f"libvmaf scored {len(scores)} of {feeds[0].frames} frames")
    return float(np.mean(scores))


class _Feed:
    """Writes one stream of frames into a pipe, on a thread of its own."""

    def __init__(
        self,
        name: str,
        chunks: Iterable[FramesTHWC],
        width: int,
        height: int,
        stop: threading.Event,
    ) -> None:
        self.name = name
        self.frames = 0
        self.error: BaseException | None = None
        self._chunks = chunks
        self._size = (height, width, 3)
        self._stop = stop  # shared: the first stream to fail ends the other too
        self.read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._work, name=f"vmaf-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            with os.fdopen(self._write_end, "wb") as pipe:
                for chunk in self._chunks:
                    if chunk.dtype != np.uint8 or chunk.shape[1:] != self._size:
                        raise UsageError(
                            f"{self.name} chunk is {chunk.dtype} {chunk.shape}",
                            why=f"expected uint8 [T, {', '.join(map(str, self._size))}]",
                        )
                    for frame in chunk:
                        if self._stop.is_set():
                            return
                        pipe.write(np.ascontiguousarray(frame).data)
                        self.frames += 1
        except BrokenPipeError:
            pass  # ffmpeg ended early: its own message tells why
        except BaseException as error:
            # Raised again in the caller's thread, by _run.
            self.error = error
            self._stop.set()


def _run(
    ffmpeg: str, feeds: list[_Feed], width: int, height: int, fps: float | Fraction, folder: Path
) -> str | None:
    """Run ffmpeg over both feeds; None, or its last lines where it failed."""
    rate = Fraction(fps).limit_denominator(1001)
    command = [_binary(ffmpeg), "-hide_banner", "-nostdin", "-loglevel", "error"]
    for feed in feeds:
        command += ["-f", "rawvideo", "-pixel_format", "rgb24"]
        command += ["-video_size", f"{width}x{height}", "-framerate", str(rate)]
        command += ["-i", f"pipe:{feed.read_end}"]
    # A relative log path in ffmpeg's working folder needs no escaping in the filter graph.
    measure = (
        f"libvmaf=model=version={VMAF_MODEL}:log_fmt=json:log_path=vmaf.json"
        f":n_threads={min(os.cpu_count() or 1, 8)}"
    )
    graph = f"[0:v]{_TO_YUV}[dis];[1:v]{_TO_YUV}[ref];[dis][ref]{measure}"
    command += ["-filter_complex", graph, "-f", "null", "-"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[feed.read_end for feed in feeds],
    )
    assert process.stderr is not None
    try:
        for feed in feeds:
            os.close(feed.read_end)  # ffmpeg holds the only one: it ending breaks the pipe
            feed.start()
        with process.stderr:
            tail = deque(process.stderr, maxlen=8)
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        for feed in feeds:
            feed.finish()
    for feed in feeds:
        if feed.error is not None:
            raise feed.error
    if status == 0:
        return None
    lines = [line.decode(errors="replace").strip() for line in tail]
    return " | ".join(lines) or f"exit status {status}"


def _binary(ffmpeg: str) -> str:
    found = shutil.which(ffmpeg)
    if found is None:
        raise MissingDependencyError(f"no ffmpeg at {ffmpeg}", fix="Install ffmpeg.")
    return str(Path(found).absolute())


@functools.lru_cache(maxsize=8)
def _has_libvmaf(ffmpeg: str) -> bool:
    listing = subprocess.run(
        [_binary(ffmpeg), "-hide_banner", "-filters"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    ).stdout
    return any(line.split()[1:2] == [b"libvmaf"] for line in listing.splitlines())
