"""Append encoded chunks to shard files, one shard after another."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from pvtok.store.files import remove, sync_folder, write_all
from pvtok.store.layout import Layout, shard_name
from pvtok.store.progress import damaged_partial
from pvtok.store.shard import Shard, encode_index


class ShardWriter:
    """The shards of one array being written; at most one file is open.

    Every method may raise `OSError`.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder, self._layout = folder, layout
        self._file: FileIO | None = None
        self._shard = 0
        self.sizes: list[int] = []
        """Bytes of each chunk in the shard being written."""

    @classmethod
    def resume(cls, folder: Path, layout: Layout, chunks: int, sizes: list[int]) -> ShardWriter:
        """Go on after `chunks` chunks, of which the last ones, of `sizes` bytes, are in a shard
        still open. Whatever was written after them is cut off.

        Raises:
            CorruptStoreError: what should be there is not.
        """
        writer = cls(folder, layout)
        writer._shard, slot = divmod(chunks, layout.chunks_per_shard)
        open_name = shard_name(writer._shard)
        closed = {shard_name(shard): shard for shard in range(writer._shard)}
        for entry in folder.iterdir():
            if entry.name not in closed and (entry.name != open_name or slot == 0):
                remove(entry)
        try:
            for shard in closed.values():
                Shard(folder, shard, layout, chunks * layout.chunk_latents).close()
            if slot != len(sizes):
                raise ValueError(f"{len(sizes)} chunk sizes for {slot} chunks")
            if slot:
                writer._reopen(folder / open_name, sizes)
        except (ValueError, FileNotFoundError) as error:
            raise damaged_partial(folder, str(error)) from error
        return writer

    def _reopen(self, path: Path, sizes: list[int]) -> None:
        length = sum(sizes)
        if path.stat().st_size < length:
            raise ValueError(f"{path.name} is shorter than its checkpoint of {length} bytes")
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(length)
        self._file.seek(length)
        self.sizes = list(sizes)

    def append(self, data: bytes) -> None:
        """Append one encoded chunk; a shard that is full with it is closed."""
        if self._file is None:
            path = self._folder / shard_name(self._shard)
            self._file = path.open("wb", buffering=0)
        write_all(self._file, data)
        self.sizes.append(len(data))
        if len(self.sizes) == self._layout.chunks_per_shard:
            self._close_shard(self._layout.chunks_per_shard)

    def finish(self, slots: int) -> None:
        """Close the last shard, giving it an index of `slots` slots."""
        if self._file is not None:
            self._close_shard(slots)
        sync_folder(self._folder)

    def sync(self) -> None:
        """Make all chunks so far durable."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        sync_folder(self._folder)

    def close(self) -> None:
        """Let go of the open file, leaving its shard without index."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _close_shard(self, slots: int) -> None:
        assert self._file is not None
        write_all(self._file, encode_index(self.sizes, slots))
        os.fsync(self._file.fileno())
        self.close()
        self._shard += 1
        self.sizes = []
