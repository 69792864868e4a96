"""Write a store in constant memory, with checkpoints from which a killed run goes on exactly.

The store grows in the folder `store` of a sibling `NAME.zarr.partial`; when it is whole it is
renamed to its own name, so nothing unfinished is ever seen there. Chunks are appended to their
shard as they fill; a shard is closed by its index and never touched again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import OutputExistsError, PvtokError, StoreError
from pvtok.store.codec import LITTLE_HALF, Codec, encode_chunk, seal
from pvtok.store.counts import kept_frames, latents_under
from pvtok.store.documents import dump
from pvtok.store.files import partial_of, resolved, sync_folder, write_durably, writing
from pvtok.store.half import to_half
from pvtok.store.header import METADATA_FILE, TIMESTAMPS, Header, read_header
from pvtok.store.layout import SHARD_BYTES, Layout
from pvtok.store.meta import StoreMeta
from pvtok.store.partial import Partial, check_replaceable, output_exists, remove_leftover
from pvtok.store.progress import Progress
from pvtok.store.resume import finished_difference, require_same, resume_key
from pvtok.store.shard_writer import ShardWriter


class StoreWriter:
    """Appends latents to a store that becomes visible when `finish` is called.

    Use `StoreWriter.create`, as a context manager: leaving it without `finish` is `abort`. Any
    method may raise `WriteError` (disk full, no permission); after that only `abort` works, and
    the store can be resumed from its last checkpoint.

    Attributes:
        path: where the finished store will be.
        latents_done: latent frames appended so far, those of a resumed run included.
        state: the caller's bytes from the checkpoint resumed from; None if there are none.
        already_complete: the store is there already, finished and the same; nothing to do.
    """

    def __init__(
        self,
        path: Path,
        meta: StoreMeta,
        layout: Layout,
        partial: Partial | None,
        progress: Progress,
        shards: ShardWriter | None,
    ) -> None:
        # Use `create`. Without `partial` and `shards` the store is complete already.
        self.path, self.meta = path, meta
        self.latents_done = progress.latents
        self.state = progress.state
        self.already_complete = shards is None
        self._layout, self._partial, self._shards = layout, partial, shards
        self._progress = replace(progress, rows=b"", state=None)
        self._failed = False
        # The latent frames that do not fill a chunk yet: the only latents held in memory.
        self._chunk = np.empty(layout.chunk_shape if shards else 0, LITTLE_HALF)
        self._filled = 0
        if shards:
            self._hold(np.frombuffer(progress.rows, LITTLE_HALF).reshape(-1, *layout.row_shape))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        meta: StoreMeta,
        *,
        codec: Codec = "none",
        chunk_latents: int | None = None,
        shard_bytes: int = SHARD_BYTES,
        overwrite: bool = False,
        resume: bool = False,
    ) -> StoreWriter:
        """Begin a store, or go on with an unfinished one.

        Args:
            path: where the finished store will be; its folder must exist.
            codec: "none" or "zstd"; chunks carry a CRC-32C either way.
            chunk_latents: latent frames per chunk; None = about 1 MiB.
            shard_bytes: target size of a shard file.
            overwrite: replace a finished store, or drop an unfinished one.
            resume: go on with an unfinished store if there is one (this wins over `overwrite`);
                a finished store of the same inputs and settings gives `already_complete`.

        Raises:
            OutputExistsError: there is a store, or an unfinished one, and neither was asked for.
            ModelMismatchError, StoreError: the unfinished store is of another model, or of other
                inputs or settings; another process is writing it; `path` is not a store.
            CorruptStoreError: what should be resumed is damaged.
            UsageError, WriteError: an argument that cannot work; the disk refuses.
        """
        final = resolved(path)
        layout = Layout.plan(meta, codec, chunk_latents, shard_bytes)
        check_replaceable(final)
        if final.exists() and not overwrite and not resume:
            raise output_exists(final)
        if resume and (final / METADATA_FILE).is_file():
            finished = _finished(final, meta, layout, overwrite)
            if finished is not None:
                with writing(final):
                    remove_leftover(final)
                return cls(final, meta, layout, None, finished, None)
        with writing(final):
            partial = Partial(final)
            was_begun = partial.is_begun
            try:
                return cls._open(partial, meta, layout, overwrite, resume)
            except BaseException:
                partial.release(remove_folder=not was_begun)
                raise

    @classmethod
    def _open(
        cls, partial: Partial, meta: StoreMeta, layout: Layout, overwrite: bool, resume: bool
    ) -> StoreWriter:
        key = resume_key(meta, layout)
        if partial.is_begun and not resume and not overwrite:
            raise OutputExistsError(
                f"an unfinished encode of {partial.final} is in {partial.folder}",
                fix="Use --resume to go on with it, or --overwrite to start afresh.",
            )
        if partial.is_begun and resume:
            progress = Progress.load(partial.folder)
            require_same(partial.folder, progress.key, key)
            progress = replace(progress, overwrite=progress.overwrite or overwrite)
            _require_free(partial.final, progress.overwrite)
            partial.clear_unfinished()
            chunks = progress.latents // layout.chunk_latents
            shards = ShardWriter.resume(partial.latents, layout, chunks, progress.shard_sizes)
        else:
            _require_free(partial.final, overwrite)
            partial.begin()
            progress = Progress(0, 0, [], b"", None, overwrite, key)
            progress.save(partial.folder)
            shards = ShardWriter(partial.latents, layout)
        return cls(partial.final, meta, layout, partial, progress, shards)

    def append(self, latents: NDArray[Any]) -> None:
        """Append raw latents `[n, channels, latent_height, latent_width]` of any float dtype.

        Raises:
            NonFiniteError: a value is NaN, infinite or beyond float16; nothing is appended.
            UsageError: the shape or dtype does not fit.
        """
        shards = self._require_open()
        rows = to_half(latents, self._layout.row_shape, self.latents_done)
        with self._writing():
            while len(rows):
                rows = rows[self._hold(rows) :]
                if self._filled == self._layout.chunk_latents:
                    shards.append(encode_chunk(self._chunk, self._layout.codec))
                    self._filled = 0
            self.latents_done += len(latents)

    def checkpoint(self, state: bytes | None) -> None:
        """Make everything appended so far durable; a later run resumes here.

        Args:
            state: bytes handed back as `state` on resuming, such as a model's streaming state.
        """
        shards = self._require_open()
        with self._writing() as partial:
            shards.sync()
            progress = replace(
                self._progress,
                serial=self._progress.serial + 1,
                latents=self.latents_done,
                shard_sizes=list(shards.sizes),
                rows=self._chunk[: self._filled].tobytes(),
                state=state,
            )
            progress.save(partial.folder)
            self._progress = replace(progress, rows=b"", state=None)  # they may be large

    def finish(self, *, frames: int, timestamps: Sequence[float] | None = None) -> None:
        """Complete the store and make it visible under its name.

        Args:
            frames: frames of the source that were encoded, those dropped by the tail policy
                "drop" included.
            timestamps: seconds at which each of them is shown, for sources of variable rate.

        Raises:
            StoreError: `frames` does not agree with the latents appended, or the timestamps are
                not as many rising times; the writer stays usable.
            TailError: the tail policy is "error" and the last group is not whole.
        """
        shards = self._require_open()
        header = self._header(frames, has_timestamps=timestamps is not None)
        times = None if timestamps is None else _times(timestamps, frames)[: header.frames]
        with self._writing() as partial:
            if self._filled:
                # Rows that are not there are NaN; a lone chunk has no more rows than it needs.
                self._chunk[self._filled :] = np.nan
                last = self._chunk[: header.layout.chunk_latents]
                shards.append(encode_chunk(last, header.layout.codec))
            shards.finish(header.layout.chunks_per_shard)
            if times is not None:
                (partial.store / TIMESTAMPS).mkdir()
                write_durably(partial.store / TIMESTAMPS / "c.0", seal(times.tobytes()))
            for name, document in header.documents().items():
                write_durably(partial.store / name, dump(document))
                sync_folder((partial.store / name).parent)
            partial.publish(overwrite=self._progress.overwrite)
            self._close()

    def abort(self) -> None:
        """Stop writing. The unfinished store stays if it has a checkpoint, else it is removed."""
        if self._partial is None:
            return
        partial, keep = self._partial, self._progress.serial > 0
        self._close()
        with writing(self.path):
            partial.release(remove_folder=not keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def _hold(self, rows: NDArray[np.float16]) -> int:
        """Copy as many rows as fit into the chunk being filled; returns how many."""
        count = min(len(rows), self._layout.chunk_latents - self._filled)
        self._chunk[self._filled : self._filled + count] = rows[:count]
        self._filled += count
        return count

    def _header(self, frames: int, *, has_timestamps: bool) -> Header:
        stream = (self.meta.tail, self.meta.temporal_ratio, self.meta.segment)
        wanted = latents_under(frames, *stream)
        if frames < 1 or wanted != self.latents_done:
            raise StoreError(
                f"{frames} frames make {wanted} latents, but {self.latents_done} were appended",
                why=f"tail policy {self.meta.tail!r}, segment {self.meta.segment}",
            )
        kept = kept_frames(frames, *stream)
        layout = self._layout.fitted(self.latents_done)
        return Header(self.meta, layout, self.latents_done, kept, frames - kept, has_timestamps)

    def _require_open(self) -> ShardWriter:
        if self.already_complete:
            raise StoreError(f"{self.path} is complete already")
        if self._failed:
            raise StoreError(
                f"writing {self.path} has failed before",
                fix="Go on from the last checkpoint with --resume.",
            )
        if self._shards is None:
            raise StoreError(f"the writer of {self.path} is closed")
        return self._shards

    @contextmanager
    def _writing(self) -> Iterator[Partial]:
        """Whatever interrupts the block, what it leaves behind is not to be built upon."""
        assert self._partial is not None
        try:
            with writing(self.path):
                yield self._partial
        except BaseException:
            self._failed = True
            raise

    def _close(self) -> None:
        if self._shards is not None:
            self._shards.close()
        self._shards = self._partial = None


def _finished(final: Path, meta: StoreMeta, layout: Layout, overwrite: bool) -> Progress | None:
    """The end of a finished store that is the one asked for; None if there is work to do."""
    try:
        header = read_header(final)
    except PvtokError:
        if overwrite or partial_of(final).is_dir():
            return None
        raise
    difference = finished_difference(header, meta, layout)
    if difference and not overwrite and not partial_of(final).is_dir():
        raise OutputExistsError(
            f"{final} holds another encode", why=difference, fix="Use --overwrite to replace it."
        )
    return None if difference else Progress(0, header.latents, [], b"", None, False, {})


def _require_free(final: Path, overwrite: bool) -> None:
    if final.exists() and not overwrite:
        raise output_exists(final)


def _times(timestamps: Sequence[float], frames: int) -> NDArray[np.float64]:
    times = np.asarray(timestamps, "<f8")
    if times.shape != (frames,):
        raise StoreError(f"{times.shape} timestamps for {frames} frames")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise StoreError("the timestamps are not finite rising times")
    return times
