"""Predict frames of a video or store and hold them against what really came.

Padding latents in the place of unseen ones are decoded (paper, "Analyses": the prediction figure).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from pvtok.convert import decode_frames, require_model
from pvtok.errors import UsageError
from pvtok.groups import FramesTHWC, frames_in, group_of
from pvtok.metrics import FrameMetrics, FrameMetricsResult
from pvtok.store import LatentStore
from pvtok.tokenizer import Tokenizer
from pvtok.video import ReadOptions, VideoReader

Start = int | Literal["end"]
BORDER_RGB = (255, 140, 0)


@dataclass(frozen=True)
class Prediction:
    """Context and predicted frames, and how they compare with the truth."""

    context: FramesTHWC
    predicted: FramesTHWC
    truth: FramesTHWC
    """What really followed, as far as it is at hand: at most as many frames as predicted."""
    truth_source: Literal["video", "reconstruction"] | None
    """A store has no pixels: there the truth is the decoding of its own later latents."""
    fps: Fraction
    notices: tuple[str, ...]

    def against_truth(self) -> FrameMetricsResult | None:
        """PSNR and SSIM of the predicted frames that have a truth, and their means."""
        return self._compare(self.predicted[: len(self.truth)])

    def copy_last_against_truth(self) -> FrameMetricsResult | None:
        """The same for repeating the last context frame: the baseline to beat."""
        return self._compare(np.repeat(self.context[-1:], len(self.truth), axis=0))

    def _compare(self, frames: FramesTHWC) -> FrameMetricsResult | None:
        if not len(self.truth):
            return None
        metrics = FrameMetrics(ms_ssim=False)
        metrics.update(self.truth, frames)
        return metrics.result()


def predict_video(
    tok: Tokenizer,
    source: str | os.PathLike[str],
    context: int,
    *,
    at: Start = 0,
    frames: int | None = None,
    options: ReadOptions | None = None,
    detail: bool = True,
    seed: int = 0,
) -> Prediction:
    """Predict from `context` frames of a video file.

    Args:
        context: how many frames the model sees, from 1 on.
        at: the first of them, or "end" for the video's last ones.
        frames: how many to predict; None is the model's own horizon.
        detail: see `Tokenizer.predict`.

    Raises:
        UsageError: a number below 1, or a context the video does not hold.
    """
    wanted = _check(tok, context, at, frames)
    with VideoReader(source, options or ReadOptions()) as reader:
        if at == "end":
            last: deque[FramesTHWC] = deque(maxlen=context)
            for chunk in reader:
                last.extend(chunk)
            clip, total = np.stack(list(last)), reader.frames_read
        else:
            clip, total = _window(reader, at, at + context + wanted)
        fps, notices = reader.fps, tuple(reader.notices)
    if len(clip) < context:
        raise UsageError(
            f"a context of {context} frames from frame {at} on",
            why=f"the video has {total} frames",
            fix="Use a smaller --context or --at.",
        )
    seen, truth = clip[:context], clip[context:]
    predicted = tok.predict(seen, wanted, detail=detail, seed=seed)
    return Prediction(seen, predicted, truth, "video" if len(truth) else None, fps, notices)


def _window(reader: VideoReader, a: int, b: int) -> tuple[FramesTHWC, int]:
    """Frames `a:b` as far as there are any, and how many frames were read."""
    parts, position = [np.empty((0, reader.height, reader.width, 3), np.uint8)], 0
    for chunk in reader:
        begin, end = max(a - position, 0), min(b - position, len(chunk))
        if begin < end:
            parts.append(chunk[begin:end])
        position += len(chunk)
        if position >= b:
            break
    return np.concatenate(parts), position


def predict_store(
    tok: Tokenizer,
    store: LatentStore,
    context: int,
    *,
    at: Start = 0,
    frames: int | None = None,
    seed: int = 0,
) -> Prediction:
    """Predict from the latents of a store; the context is rounded up to whole groups.

    Raises:
        UsageError: a number below 1, or a context the store does not hold.
        ModelMismatchError, CorruptStoreError: the store is of another model, or damaged.
    """
    wanted = _check(tok, context, at, frames)
    require_model(tok, store)
    begin = store.frames - context if at == "end" else at
    if begin < 0 or begin + context > store.frames:
        raise UsageError(
            f"a context of {context} frames from frame {at} on",
            why=f"the store has {store.frames} frames",
            fix="Use a smaller --context or --at.",
        )
    first, last = group_of(begin), group_of(begin + context - 1)
    groups = last - first + 1
    start = frames_in(first) if first else 0
    end = frames_in(last + 1)
    notices = []
    if (start, end) != (begin, begin + context):
        notices.append(
            f"the context was rounded up to {groups} whole groups: frames {start} to {end - 1}"
        )
    if end > store.frames:
        notices.append(f"its last {end - store.frames} frames repeat the video's last one")
    warm = max(0, first - tok.net.decoder.past_latents)
    latents = np.asarray(store.latents[warm : last + 1], np.float32)
    width, height = store.size
    left, top = store.meta.crop[:2]
    context_frames, predicted = (
        part[:, top : top + height, left : left + width]
        for part in tok.predict_latents(latents, wanted, context_groups=groups, seed=seed)
    )
    context_frames = context_frames[: store.frames - start]  # without the last group's filling
    stop = min(end + wanted, store.frames)
    truth = (
        np.concatenate(list(decode_frames(tok, store, end, stop))) if end < stop else predicted[:0]
    )
    return Prediction(
        context_frames,
        predicted,
        truth,
        "reconstruction" if len(truth) else None,
        store.fps,
        tuple(notices),
    )


def _check(tok: Tokenizer, context: int, at: Start, frames: int | None) -> int:
    if context < 1:
        raise UsageError(f"context = {context}", why="prediction needs at least one frame")
    if at != "end" and at < 0:
        raise UsageError(f"at = {at}", why="frames are counted from 0", fix="Or use 'end'.")
    if frames is not None and frames < 1:
        raise UsageError(f"frames = {frames}", why="at least one frame must be predicted")
    return tok.default_horizon(context) if frames is None else frames


def with_border(frames: FramesTHWC) -> FramesTHWC:
    """A copy with an orange border, that marks predicted frames."""
    height, width = frames.shape[1:3]
    thick = max(2, min(height, width) // 48)
    framed = frames.copy()
    framed[:, :thick] = framed[:, -thick:] = BORDER_RGB
    framed[:, :, :thick] = framed[:, :, -thick:] = BORDER_RGB
    return framed
