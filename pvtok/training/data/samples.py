"""One sample, as a function of the seed, its global index and the shape wanted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtok.errors import PvtokError, UsageError, VideoError
from pvtok.groups import FramesTHWC
from pvtok.training.data.cache import ClipCache
from pvtok.training.data.config import DataConfig
from pvtok.training.data.procedural import render_clip
from pvtok.training.randomness import numpy_generator
from pvtok.video import ReadOptions, VideoReader, probe, read_frames

Source = Literal["videos", "images"]


class _Facts(NamedTuple):
    """What a video's file says of itself."""

    frames: int
    fps: float


class _Chances(NamedTuple):
    """The numbers in [0, 1) that decide a sample. All are always drawn, in this order: what one of
    them decides can be switched off without changing the others."""

    rendered: float
    when: float
    y: float
    x: float
    flip: float
    reverse: float


class Samples:
    """Reads or renders samples.

    What it remembers are facts of files, never of the order in which samples were asked for.

    Attributes:
        failures: files that could not be used since the last time this was emptied, with reasons.
    """

    def __init__(
        self, config: DataConfig, seed: int, videos: Sequence[Path], images: Sequence[Path]
    ) -> None:
        self._config, self._seed, self._videos, self._images = config, seed, videos, images
        self._cache = ClipCache(Path(config.cache)) if config.cache else None
        self._facts: dict[Path, _Facts | VideoError] = {}
        self._undecodable: dict[tuple[Path, ReadOptions], VideoError] = {}
        self.failures: dict[Path, str] = {}

    def files(self, source: Source) -> Sequence[Path]:
        """Files that samples of a source are cut from; without images, videos give single frames.

        Raises:
            UsageError: there is none and not every sample is rendered.
        """
        files = self._images if source == "images" and self._images else self._videos
        if not files and self._config.procedural < 1:
            raise UsageError(
                f"there are no {source} to train on", fix=f"Name some in data.{source}."
            )
        return files

    def sample(self, index: int, frames: int, size: int, source: Source) -> Tensor:
        """Sample `index`, uint8 `[3, frames, size, size]`.

        Raises:
            PvtokError: no file can be used.
            WriteError, MissingDependencyError: nothing to do with the file.
        """
        rng = numpy_generator(self._seed, "sample", index)
        chances = _Chances(*rng.random(len(_Chances._fields)).tolist())
        if chances.rendered < self._config.procedural:
            clip_CTHW = render_clip(rng, frames, size)
        else:
            crop_THWC = self._crop(index, frames, size, source, chances)
            clip_CTHW = torch.from_numpy(crop_THWC).permute(3, 0, 1, 2)
        turned = []
        if self._config.reverse and chances.reverse < 0.5:
            turned.append(1)
        if self._config.flip and chances.flip < 0.5:
            turned.append(3)
        return clip_CTHW.flip(turned)

    def _crop(
        self, index: int, frames: int, size: int, source: Source, chances: _Chances
    ) -> FramesTHWC:
        """A crop from the file whose turn it is, or from the next one that can be used."""
        files = self.files(source)
        epoch, position = divmod(index, len(files))
        order = _shuffled(len(files), self._seed, source, epoch)
        reason = ""
        for step in range(len(files)):
            path = files[order[(position + step) % len(files)]]
            try:
                clip = self._clip(path, frames, size, source, chances.when)
            except VideoError as error:
                # Without the fix: it speaks of options that training does not have.
                reason = f"{error.what}: {error.why}" if error.why else error.what
                self.failures[path] = reason
            else:
                y, x = (
                    int(chance * (side - size + 1))
                    for chance, side in zip((chances.y, chances.x), clip.shape[1:3], strict=True)
                )
                # A copy: a view would keep the whole frames, or the map of a file, alive.
                return np.array(clip[:, y : y + size, x : x + size])
        raise PvtokError(
            f"none of the {len(files)} files can give {frames} frames of {size}x{size}",
            why=f"of the last: {reason}",
        )

    def _clip(self, path: Path, frames: int, size: int, source: Source, when: float) -> FramesTHWC:
        """Consecutive whole frames of a file, at least `size` pixels on each side.

        Raises:
            VideoError: damaged, too short, ...
        """
        side = max(self._config.short_side, size)
        # High dynamic range is brought down to ordinary video rather than refused.
        options = ReadOptions(size=side, max_frames=self._config.max_frames, tonemap=True)
        if source == "images" and self._images:
            return read_frames(path, options)
        if self._cache is not None:
            whole = self._decoded(self._cache, path, options)
            first = _first(path, len(whole), frames, when)
            return whole[first : first + frames]
        facts = self._probed(path)
        first = _first(path, facts.frames, frames, when)
        return _read_window(path, side, first, frames, facts.fps)

    def _decoded(self, cache: ClipCache, path: Path, options: ReadOptions) -> FramesTHWC:
        if known := self._undecodable.get((path, options)):
            raise known.with_traceback(None)  # else it would grow each time
        try:
            return cache.frames(path, options)
        except VideoError as error:
            self._undecodable[path, options] = error
            raise

    def _probed(self, path: Path) -> _Facts:
        known = self._facts.get(path)
        if known is None:
            try:
                info = probe(path)
                if not info.frames:
                    raise VideoError(f"{path} does not say how many frames it has")
                most = self._config.max_frames or info.frames
                known = _Facts(min(info.frames, most), float(info.fps))
            except VideoError as error:
                known = error
            self._facts[path] = known
        if isinstance(known, VideoError):
            raise known.with_traceback(None)
        return known


def _first(path: Path, there: int, wanted: int, chance: float) -> int:
    """At which frame to begin."""
    if there < wanted:
        raise VideoError(f"{path} is too short", why=f"{there} frames of {wanted}")
    return int(chance * (there - wanted + 1))


def _read_window(path: Path, side: int, first: int, count: int, fps: float) -> FramesTHWC:
    """Frames `first` to `first + count` of a video, decoding little more than those."""
    # Half a frame early, so that rounding cannot lose the frame itself.
    start = max(0.0, (first - 0.5) / fps)
    try:
        frames = read_frames(
            path, ReadOptions(size=side, start=start, max_frames=count, tonemap=True)
        )
        if len(frames) == count:
            return frames
    except VideoError:
        pass
    # The rate varies, or the file is not quite what it says: count the frames from its beginning.
    # They pass by, so that a long video need not fit into memory.
    held: list[FramesTHWC] = []
    options = ReadOptions(size=side, max_frames=first + count, tonemap=True)
    with VideoReader(path, options, chunk_frames=count) as reader:
        for chunk in reader:
            held = [*held[-1:], chunk]
    frames = np.concatenate(held)[-count:]
    _first(path, len(frames), count, 0.0)
    return frames


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, source: str, epoch: int) -> NDArray[np.int64]:
    return numpy_generator(seed, "order", source, epoch).permutation(count)
