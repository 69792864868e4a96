"""Shard files: chunks one after another, then an index of where each begins.

Zarr's `sharding_indexed` codec with the index at the end: one pair of little-endian uint64
(offset, nbytes) per chunk slot, both 2^64 - 1 where the chunk is absent, then the CRC-32C of the
pairs. https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pvtok.store.codec import Half, decode_chunk, seal, unseal
from pvtok.store.layout import Layout

_MISSING = 2**64 - 1
_INDEX_DTYPE = np.dtype("<u8")


def encode_index(sizes: Sequence[int], slots: int) -> bytes:
    """The index of a shard whose first chunks, of `sizes` bytes each, lie end to end from byte 0;
    the other slots are marked absent."""
    return seal(_index_body(sizes, slots))


def _index_body(sizes: Sequence[int], slots: int) -> bytes:
    index = np.full((slots, 2), _MISSING, _INDEX_DTYPE)
    index[: len(sizes), 1] = sizes
    index[: len(sizes), 0] = np.cumsum([0, *sizes])[:-1]
    return index.tobytes()


class Shard:
    """A shard file open for reading.

    Args:
        path: the file.
        present: how many chunks it must hold; they are its first slots.

    Raises:
        ValueError: the file is too short, too long, or its index is damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, layout: Layout, present: int) -> None:
        self._layout = layout
        self._file = path.open("rb", buffering=0)
        try:
            self._sizes = self._read_index(present)
        except BaseException:
            self._file.close()
            raise
        self._offsets = [0]
        for size in self._sizes:
            self._offsets.append(self._offsets[-1] + size)

    def _read_index(self, present: int) -> list[int]:
        length = os.fstat(self._file.fileno()).st_size
        start = length - self._layout.index_nbytes
        if start < 0:
            raise ValueError(f"it is cut short ({length} bytes)")
        try:
            body = unseal(self._read(start, self._layout.index_nbytes))
        except ValueError:
            raise ValueError("its index is damaged or it is cut short") from None
        index = np.frombuffer(body, _INDEX_DTYPE).reshape(-1, 2)
        sizes = [int(size) for size in index[:present, 1]]
        # Chunks without gaps from the start to the index leave no place for stray bytes.
        if sum(sizes) != start or _index_body(sizes, self._layout.chunks_per_shard) != body:
            raise ValueError(f"its index does not name {present} chunks in {start} bytes")
        return sizes

    def _read(self, offset: int, nbytes: int) -> bytes:
        parts = []
        while nbytes > 0:
            part = os.pread(self._file.fileno(), nbytes, offset)
            if not part:
                raise ValueError("it is cut short")
            parts.append(part)
            offset, nbytes = offset + len(part), nbytes - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunk(self, slot: int) -> Half:
        """Chunk number `slot` of this shard, of the layout's chunk shape, read-only.

        Raises:
            ValueError: the chunk is damaged.
        """
        data = self._read(self._offsets[slot], self._sizes[slot])
        return decode_chunk(data, self._layout.chunk_shape, self._layout.codec)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
