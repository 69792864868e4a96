"""Read a finished store: a window costs the chunks it touches, and every byte is checked."""

from __future__ import annotations

import os
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvtok.errors import ModelMismatchError, StoreError, UsageError
from pvtok.store.codec import LITTLE_HALF, Half, unseal
from pvtok.store.files import resolved
from pvtok.store.header import LATENTS, TIMESTAMPS, Header, damaged, read_header
from pvtok.store.layout import Layout, shard_name
from pvtok.store.shard import Shard

if TYPE_CHECKING:
    import zarr


class LatentArray:
    """The latents on disk, `[latents, channels, height, width]`, float16, sliced like an array.

    It holds no open file and no cache, so it can be pickled, forked and read by many threads.
    """

    def __init__(self, path: Path, layout: Layout, latents: int) -> None:
        self._path, self._layout = path, layout
        self.shape = (latents, *layout.row_shape)
        self.dtype = LITTLE_HALF

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> Half:
        """One latent frame `[channels, height, width]` or, as numpy does, those of a slice.

        Raises:
            IndexError, UsageError: no such latent frame; a slice with a step.
            CorruptStoreError: see `read`.
        """
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise UsageError(f"latents cannot be read in steps of {step}", fix="Use [a:b].")
            return self.read(start, max(start, stop))
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"latent frame {key} of {len(self)}")
        frame: Half = self.read(index, index + 1)[0]
        return frame

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("latents on disk cannot become an array without a copy")
        return self.read(0, len(self)).astype(dtype or self.dtype, copy=False)

    def read(self, a: int, b: int) -> Half:
        """Latent frames `a:b`, `0 <= a <= b <= len`.

        Raises:
            CorruptStoreError: a chunk in the window is damaged or missing.
            StoreError: a file cannot be read, or the window does not fit in memory.
        """
        try:
            result = np.empty((b - a, *self.shape[1:]), self.dtype)
        except (MemoryError, ValueError) as error:
            gib = (b - a) * self._layout.row_nbytes / 2**30
            raise StoreError(f"latents {a}:{b} need {gib:.1f} GiB of memory") from error
        size = self._layout.shard_shape[0]
        for shard in range(a // size, -(-b // size)):
            begin, end = max(a, shard * size), min(b, (shard + 1) * size)
            self._read_shard(shard, begin, end, result[begin - a : end - a])
        return result

    def _read_shard(self, number: int, a: int, b: int, result: Half) -> None:
        """Copy latent frames `a:b`, all in one shard, into `result`."""
        size = self._layout.chunk_latents
        name = f"{LATENTS}/{shard_name(number)}"
        try:
            with Shard(self._path / LATENTS, number, self._layout, len(self)) as shard:
                for chunk in range(a // size, -(-b // size)):
                    start = chunk * size
                    begin, end = max(a, start), min(b, start + size)
                    rows = shard.rows(chunk, begin - start, end - start)
                    result[begin - a : end - a] = rows
        except FileNotFoundError as error:
            raise damaged(self._path, f"{name} (latents {a}:{b}) is missing") from error
        except ValueError as error:
            raise damaged(self._path, f"{name}: {error}") from error
        except OSError as error:
            raise _unreadable(self._path / name, error) from error


class LatentStore:
    """A finished store. See `StoreMeta` for what `meta` says.

    Attributes:
        path: the store's folder, absolute.
        meta: what was known before the first latent.
        frames: frames of the video that the latents stand for: what a decode gives back.
        dropped_frames: frames of the source after those, left out by the tail policy "drop".
        latents: the latents on disk; `latents[a:b]` reads.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.meta, self.layout = path, header.meta, header.layout
        self.frames, self.dropped_frames = header.frames, header.dropped_frames
        self.latents = LatentArray(path, header.layout, header.latents)
        self._has_timestamps = header.has_timestamps

    @property
    def fps(self) -> Fraction:
        """Frames per second; the mean rate where there are timestamps."""
        return self.meta.fps

    @property
    def size(self) -> tuple[int, int]:
        """True width and height in pixels."""
        return (self.meta.width, self.meta.height)

    def zarr_group(self) -> zarr.Group:
        """The store through zarr-python, read-only: for slicing, dask, xarray and the like.

        It checks chunk checksums as we do, but a window with holes reads as NaN there.
        """
        import zarr

        return zarr.open_group(self.path, mode="r")

    @property
    def model_name(self) -> str:
        return self.meta.model_name

    @property
    def model_sha256(self) -> str:
        return self.meta.model_sha256

    @property
    def mean(self) -> NDArray[np.float32] | None:
        """Mean of each channel `[channels]`, if the model has statistics."""
        return _statistics(self.meta.latent_mean)

    @property
    def std(self) -> NDArray[np.float32] | None:
        """Standard deviation of each channel `[channels]`, if the model has statistics."""
        return _statistics(self.meta.latent_std)

    @cached_property
    def timestamps(self) -> NDArray[np.float64] | None:
        """Seconds at which each frame is shown `[frames]`; None for a constant rate.

        Raises:
            CorruptStoreError: the file is damaged or missing.
        """
        if not self._has_timestamps:
            return None
        name = f"{TIMESTAMPS}/c.0"
        try:
            body = unseal((self.path / name).read_bytes())
            times = np.frombuffer(body, "<f8")
            if len(times) != self.frames or not np.isfinite(times).all():
                raise ValueError(f"it does not hold {self.frames} times")
            return times
        except FileNotFoundError as error:
            raise damaged(self.path, f"{name} is missing") from error
        except ValueError as error:
            raise damaged(self.path, f"{name}: {error}") from error
        except OSError as error:
            raise _unreadable(self.path / name, error) from error

    def read(self, a: int = 0, b: int | None = None, normalized: bool = False) -> NDArray[Any]:
        """Latent frames `a:b` as `[b - a, channels, latent_height, latent_width]`.

        Args:
            b: the end, not included; None = the end of the store.
            normalized: float32 `(z - mean) / std` per channel instead of the raw float16.

        Raises:
            StoreError: the window is not within the store, or `normalized` without statistics.
            CorruptStoreError: a chunk in the window is damaged or missing.
        """
        b = len(self.latents) if b is None else b
        if not 0 <= a <= b <= len(self.latents):
            raise StoreError(f"latents {a}:{b} are not within 0:{len(self.latents)} of {self.path}")
        mean, std = self.mean, self.std
        if not normalized:
            return self.latents.read(a, b)
        if mean is None or std is None:
            raise StoreError(
                f"the latents of {self.path} cannot be normalized",
                why=f"model {self.model_name!r} has no latent mean and std",
                fix="Read them raw, or encode with a model that has them.",
            )
        latents = self.latents.read(a, b).astype(np.float32)
        latents -= mean[:, None, None]
        latents /= std[:, None, None]
        return latents


def open_store(path: str | os.PathLike[str], *, model_sha256: str | None = None) -> LatentStore:
    """Open a finished store for reading.

    Args:
        model_sha256: the model that the latents are meant for; None = any.

    Raises:
        StoreError: there is no store of a single video at `path`.
        StoreVersionError: it is of a newer format.
        CorruptStoreError: its metadata is damaged, or it is not finished.
        ModelMismatchError: its latents are of another model.
    """
    folder = resolved(path)
    header = read_header(folder)
    theirs = header.meta.model_sha256
    if model_sha256 is not None and theirs != model_sha256:
        raise ModelMismatchError(
            f"{folder} holds latents of model {header.meta.model_name!r} ({theirs[:12]})",
            why=f"the model at hand is another one ({model_sha256[:12]})",
            fix="Use the store's own model, or encode the video again.",
        )
    return LatentStore(folder, header)


def _statistics(values: list[float] | None) -> NDArray[np.float32] | None:
    return None if values is None else np.asarray(values, np.float32)


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot read {path}", why=error.strerror or str(error))
