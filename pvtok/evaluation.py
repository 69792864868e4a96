"""Hold a reconstruction against its source, frame by frame, in bounded memory."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pvtok.convert import decode_frames
from pvtok.errors import UsageError
from pvtok.groups import FramesTHWC, grouped
from pvtok.metrics import VMAF_PROTOCOL, FrameMetrics, FrameMetricsResult, vmaf, why_no_vmaf
from pvtok.model import State
from pvtok.overlap import prefetch
from pvtok.store import open_store
from pvtok.tokenizer import Tokenizer
from pvtok.video import ReadOptions, VideoReader, find_ffmpeg

Pair = tuple[FramesTHWC, FramesTHWC]

NOT_YET = "this version does not compute it"


@dataclass(frozen=True)
class Evaluation:
    """Scores of one clip; what is None has its reason in `reasons`."""

    frames: FrameMetricsResult
    vmaf: float | None
    width: int
    height: int
    notices: tuple[str, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    protocol: str = ""

    def to_json(self) -> dict[str, Any]:
        """Numbers ready for JSON; a null has a `<metric>_reason` beside it."""
        return {
            **self.frames.to_json(),
            "vmaf": self.vmaf,
            "lpips": None,
            "rfvd": None,
            **{f"{name}_reason": reason for name, reason in self.reasons.items()},
            "width": self.width,
            "height": self.height,
            "protocol": self.protocol,
        }


def evaluate_model(
    tok: Tokenizer,
    source: str | os.PathLike[str],
    *,
    options: ReadOptions | None = None,
    with_vmaf: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Encode and decode a video in memory and compare: no store, no video coding in between."""
    with VideoReader(source, options or ReadOptions()) as reader:
        what = f"source frames at {reader.width}x{reader.height} against their reconstruction by "
        what += f"{tok.name} ({tok.sha256[:12]}, {tok.dtype_name}, posterior mean, one stream)"
        pairs = _through_model(tok, reader)
        return _evaluate(pairs, reader, reader.fps, what, with_vmaf, progress)


def evaluate_files(
    source: str | os.PathLike[str],
    reconstruction: str | os.PathLike[str],
    *,
    tok: Tokenizer | None = None,
    options: ReadOptions | None = None,
    with_vmaf: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compare two video files, or a video with what a latent store decodes to.

    Args:
        tok: the store's model; None where `reconstruction` is a video.

    Raises:
        UsageError: they differ in size or length.
    """
    with VideoReader(source, options or ReadOptions()) as reader:
        what = f"source frames at {reader.width}x{reader.height} against "
        if tok is not None:
            store = open_store(reconstruction, model_sha256=tok.sha256)
            what += f"a store's decoding by {tok.name} ({tok.sha256[:12]}, {tok.dtype_name})"
            other, size = decode_frames(tok, store), store.size
            _same_size(reader, size)
            pairs = _side_by_side(reader, other)
            return _evaluate(pairs, reader, reader.fps, what, with_vmaf, progress)
        with VideoReader(reconstruction, ReadOptions()) as second:
            what += "a video file as it is"
            _same_size(reader, (second.width, second.height))
            pairs = _side_by_side(reader, iter(second))
            return _evaluate(pairs, reader, reader.fps, what, with_vmaf, progress)


def _same_size(reader: VideoReader, size: tuple[int, int]) -> None:
    if (reader.width, reader.height) != size:
        raise UsageError(
            f"the reconstruction is {size[0]}x{size[1]}, the source {reader.width}x{reader.height}",
            fix="Compare frames of one size, or give the --size and --crop it was made with.",
        )


def _through_model(tok: Tokenizer, reader: VideoReader) -> Iterator[Pair]:
    encoding: State | None = None
    decoding: State | None = None
    groups = tok.chunk_groups(reader.height, reader.width)
    given = taken = 0

    def counted() -> Iterator[FramesTHWC]:
        nonlocal given
        for chunk in frames:
            given += len(chunk)
            yield chunk

    frames = prefetch(reader)
    try:
        for chunk in grouped(counted(), groups, "repeat_last"):
            latents, encoding = tok.encode_step(chunk, encoding)
            decoded, decoding = tok.decode_step(latents, decoding)
            true = min(len(chunk), given - taken)  # the last group's filling is not compared
            taken += true
            yield chunk[:true], decoded[:true, : reader.height, : reader.width]
    finally:
        frames.close()


def _side_by_side(source: VideoReader, other: Iterator[FramesTHWC]) -> Iterator[Pair]:
    """Chunks of both, cut alike; UsageError where one is longer."""
    total = 0
    rest = np.empty((0, source.height, source.width, 3), np.uint8)
    for chunk in source:
        while len(rest) < len(chunk) and (more := next(other, None)) is not None:
            rest = np.concatenate([rest, more])
        if len(rest) < len(chunk):
            raise UsageError(
                f"the reconstruction has {total + len(rest)} frames", why="the source has more"
            )
        yield chunk, rest[: len(chunk)]
        total, rest = total + len(chunk), rest[len(chunk) :]
    if len(rest) or next(other, None) is not None:
        raise UsageError(f"the source has {total} frames", why="the reconstruction has more")


def _evaluate(
    pairs: Iterator[Pair],
    reader: VideoReader,
    fps: Fraction,
    what: str,
    with_vmaf: bool,
    progress: Callable[[int], None] | None,
) -> Evaluation:
    reasons = {"lpips": NOT_YET, "rfvd": NOT_YET}
    width, height = reader.width, reader.height
    if not with_vmaf:
        reasons["vmaf"] = "not asked for"
    elif why := why_no_vmaf(find_ffmpeg(), width, height):
        reasons["vmaf"] = why
    metrics = FrameMetrics()
    tap = _VmafTap(width, height, fps) if "vmaf" not in reasons else None
    try:
        for reference, reconstruction in pairs:
            if tap:
                tap.put(reference, reconstruction)
            metrics.update(reference, reconstruction)
            if progress:
                progress(len(reference))
    except BaseException:
        if tap:
            tap.end()
        raise
    score = tap.finish() if tap else None
    result = metrics.result()
    parts = [what, f"{result.frames} frames", result.protocol]
    if score is not None:
        parts.append(VMAF_PROTOCOL)
    return Evaluation(
        result, score, width, height, tuple(reader.notices), reasons, "; ".join(parts)
    )


class _VmafTap:
    """Computes VMAF on a thread from the pairs that pass by."""

    def __init__(self, width: int, height: int, fps: Fraction) -> None:
        self._sides: tuple[queue.Queue[FramesTHWC | None], ...] = (queue.Queue(2), queue.Queue(2))
        self._score: float | None = None
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(width, height, fps), name="pvtok-vmaf", daemon=True
        )
        self._thread.start()

    def put(self, reference: FramesTHWC, reconstruction: FramesTHWC) -> None:
        self._put(0, reference)
        self._put(1, reconstruction)

    def _put(self, side: int, item: FramesTHWC | None) -> None:
        while not self._done.is_set():
            try:
                self._sides[side].put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def end(self) -> None:
        """No more pairs will come."""
        self._put(0, None)
        self._put(1, None)
        self._thread.join()

    def finish(self) -> float | None:
        """The score; raises what went wrong."""
        self.end()
        if self._failure is not None:
            raise self._failure
        return self._score

    def _run(self, width: int, height: int, fps: Fraction) -> None:
        try:
            reference, reconstruction = (_until_none(q) for q in self._sides)
            self._score = vmaf(reference, reconstruction, width, height, fps, find_ffmpeg())
        except BaseException as error:
            self._failure = error
        finally:
            self._done.set()


def _until_none(items: queue.Queue[FramesTHWC | None]) -> Iterator[FramesTHWC]:
    while (item := items.get()) is not None:
        yield item
