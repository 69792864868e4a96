"""Shard files: chunks one after another, then an index of where each begins.

Zarr's `sharding_indexed` codec with the index at the end: one pair of little-endian uint64
(offset, nbytes) per chunk slot, both 2^64 - 1 where the chunk is absent, then the CRC-32C of the
pairs. https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pvtok.store.codec import Half, decode_chunk, seal, unseal
from pvtok.store.half import first_non_finite
from pvtok.store.layout import Layout, shard_name

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
        folder: the array's folder.
        number: which shard of the array.
        latents: latent frames in the whole array.

    Raises:
        ValueError: the file is too short, too long, or its index is damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, folder: Path, number: int, layout: Layout, latents: int) -> None:
        self._layout = layout
        self._first_chunk = number * layout.chunks_per_shard
        self._file = (folder / shard_name(number)).open("rb", buffering=0)
        try:
            self._sizes = self._read_index(layout.chunks_in_shard(number, latents))
        except BaseException:
            self.close()
            raise
        self._offsets = [0, *accumulate(self._sizes)]

    def rows(self, chunk: int, begin: int, end: int) -> Half:
        """Latent frames `begin:end` counted within chunk `chunk` of the array, read-only.

        Raises:
            ValueError: the chunk is damaged, or these frames hold NaN or infinity.
        """
        slot = chunk - self._first_chunk
        try:
            data = self._read(self._offsets[slot], self._sizes[slot])
            rows = decode_chunk(data, self._layout.chunk_shape, self._layout.codec)[begin:end]
            if first_non_finite(rows) is not None:
                raise ValueError("it holds NaN or infinity")
        except ValueError as error:
            start = chunk * self._layout.chunk_latents
            where = f"chunk {chunk} (latents {start + begin}:{start + end})"
            raise ValueError(f"{where}: {error}") from None
        return rows

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_index(self, present: int) -> list[int]:
        """Bytes of each of the `present` chunks."""
        length = os.fstat(self._file.fileno()).st_size
        start = length - self._layout.index_nbytes
        if start < 0:
            raise ValueError(f"it is cut short ({length} bytes)")
        try:
            body = unseal(self._read(start, self._layout.index_nbytes))
        except ValueError:
            raise ValueError("its index is damaged, or the file is cut short or too long") from None
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
