"""The stream of batches: which samples a step has, made by worker processes ahead of time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pvtok.errors import PvtokError, UsageError
from pvtok.media import VIDEO_SUFFIXES, Media, find_media
from pvtok.training.data.config import BatchShape, DataConfig
from pvtok.training.data.samples import Samples, Source
from pvtok.training.randomness import numpy_generator
from pvtok.video.names import IMAGE_SUFFIXES, one_line


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step.

    Attributes:
        clips_BCTHW: uint8 `[B, 3, T, S, S]`, 0..255.
        indices: the global index of each sample.
    """

    clips_BCTHW: Tensor
    indices: tuple[int, ...]


def to_signed(x: Tensor) -> Tensor:
    """uint8 0..255 -> fp32 in [-1, 1].

    Raises:
        TypeError: other values, which have another range.
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"clips are uint8, not {x.dtype}")
    return x.float() / 127.5 - 1.0


def shape_at(shapes: Sequence[BatchShape], seed: int, step: int) -> BatchShape:
    """The shape of a step's batch: any of the shapes, equally likely, the same on all processes."""
    if len(shapes) == 1:
        return shapes[0]
    return shapes[int(numpy_generator(seed, "shape", step).integers(len(shapes)))]


class TrainingData:
    """The files to train on, and batches of them.

    Attributes:
        files, held_out: videos to train on, and those kept for validation.
        images, held_out_images: the same of images.
        failures: files that were skipped so far and why, each once: damaged, too short, ...
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        """Find the files; none is opened yet.

        Raises:
            UsageError: a name that stands for no file, or nothing is left to train on.
        """
        self.config, self.seed = config, seed
        videos = find_media(config.videos, VIDEO_SUFFIXES, "videos", key="data.videos")
        images = find_media(config.images, IMAGE_SUFFIXES, "images", key="data.images")
        self.files, self.held_out = _split(videos, config.hold_out, "videos")
        self.images, self.held_out_images = _split(images, config.hold_out, "images")
        self._failures: dict[Path, str] = {}

    @property
    def failures(self) -> list[tuple[Path, str]]:
        return list(self._failures.items())

    def batches(
        self,
        shapes: Sequence[BatchShape],
        *,
        source: Source,
        steps: range,
        first_sample: int,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """One batch for each of `steps`, its shape given by `shape_at`.

        A step takes the next `batch * world` samples, of which each process has a part in order of
        rank. So a sample depends on its global index and its shape alone.

        Args:
            source: "videos", or "images" (which are single frames of the videos where there are no
                images).
            first_sample: how many samples all processes together drew before `steps.start`.

        Raises:
            UsageError: shapes that the source cannot have, or nothing of that source.
            PvtokError: while iterating, when no file can be used or a worker died.
        """
        if not shapes:
            raise UsageError("there is no batch shape")
        if source not in ("videos", "images"):
            raise UsageError(f"unknown source {source!r}", fix="Use 'videos' or 'images'.")
        if source == "images" and (long := [s for s in shapes if s.frames != 1]):
            raise UsageError(
                f"clips of {long[0].frames} frames cannot be cut from images",
                fix="Use frames = 1, or source = 'videos'.",
            )
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world} processes")
        if first_sample < 0 or steps.step != 1:
            raise UsageError(f"cannot go on from sample {first_sample} over {steps}")
        samples = Samples(self.config, self.seed, self.files, self.images)
        samples.files(source)
        plan = _plan(shapes, self.seed, source, steps, first_sample, rank, world)
        return self._loaded(_Made(samples), plan)

    def _loaded(self, made: _Made, plan: Iterator[_Part]) -> Iterator[Batch]:
        loader = DataLoader(
            made,
            batch_size=None,  # an item is a whole batch
            sampler=plan,
            num_workers=self.config.workers,
            collate_fn=_as_is,
            # Not a fork of this process, which may have threads and a GPU.
            multiprocessing_context=_workers_context() if self.config.workers else None,
            worker_init_fn=_end_with_parent,
            # Else torch's global generator would be drawn from.
            generator=torch.Generator(),
        )
        try:
            for result in loader:
                self._failures |= result.failures
                if result.error is not None:
                    raise result.error
                yield Batch(result.clips_BCTHW, result.indices)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise PvtokError(
                "a process that prepares batches has died",
                why=one_line(str(error)),
                fix="If memory or shared memory (/dev/shm) is short, lower data.workers.",
            ) from error


def _split(
    found: list[Media], hold_out: int, kind: str
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Files to train on and files held out: those a manifest names, and every n-th of the rest."""
    kept = [media.path for media in found if not media.held_out]
    out = kept[hold_out - 1 :: hold_out] if hold_out else []
    train = tuple(path for i, path in enumerate(kept, 1) if not hold_out or i % hold_out)
    if found and not train:
        raise UsageError(f"of {len(found)} {kind} none is left to train on: all are held out")
    return train, (*(media.path for media in found if media.held_out), *out)


# --- What a worker gets and gives ---------------------------------------------------------------


class _Part(NamedTuple):
    """One process's part of one step."""

    shape: BatchShape
    source: Source
    first: int


class _Result(NamedTuple):
    clips_BCTHW: Tensor
    indices: tuple[int, ...]
    failures: dict[Path, str]
    error: PvtokError | None


def _plan(
    shapes: Sequence[BatchShape],
    seed: int,
    source: Source,
    steps: range,
    first_sample: int,
    rank: int,
    world: int,
) -> Iterator[_Part]:
    for step in steps:
        shape = shape_at(shapes, seed, step)
        yield _Part(shape, source, first_sample + rank * shape.batch)
        first_sample += world * shape.batch


class _Made(Dataset[_Result]):
    """Makes the batch of a part, here or in a worker."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, part: _Part) -> _Result:
        shape = part.shape
        indices = tuple(range(part.first, part.first + shape.batch))
        clips, error = torch.empty(0, dtype=torch.uint8), None
        try:
            clips = torch.stack(
                [self._samples.sample(i, shape.frames, shape.size, part.source) for i in indices]
            )
        except PvtokError as failed:
            # As a value: raised in a worker it would come wrapped in that worker's traceback.
            error = failed
        failures, self._samples.failures = self._samples.failures, {}
        return _Result(clips, indices, failures, error)


def _as_is(result: Any) -> Any:
    return result


def _workers_context() -> BaseContext:
    """Processes that start from a clean one in which this package is loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pvtok.training.data"])
    return context


def _end_with_parent(_: int) -> None:
    """End this worker as soon as the process that trains is gone, killed or not.

    torch's own watch is for the parent's process id, which here is that of the clean process, and
    that one lives as long as any worker. Ctrl-C reaches all processes of a terminal; the one that
    trains answers it, and still needs batches until its step is done.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
