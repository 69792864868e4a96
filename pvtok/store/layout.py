"""How the array `latents` is cut into chunks and shards, and the Zarr metadata that says so.

Zarr v3 core: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pvtok.errors import UsageError
from pvtok.groups import groups_covering
from pvtok.store.codec import (
    BYTES_CODEC,
    CODECS,
    CRC_BYTES,
    CRC_CODEC,
    LITTLE_HALF,
    Codec,
    codec_documents,
)
from pvtok.store.documents import Document, shown, take
from pvtok.store.meta import StoreMeta

CHUNK_BYTES = 2**20
SHARD_BYTES = 64 * 2**20
DIMENSIONS = ("frame", "channel", "y", "x")

_MAX_CHUNK_BYTES = 2**31 - 1
_MAX_CHUNKS_PER_SHARD = 2**20
_INDEX_ENTRY_BYTES = 16


@dataclass(frozen=True)
class Layout:
    """Chunks of whole latent frames `[chunk_latents, channels, height, width]`, float16, and how
    many of them make a shard (one file).

    Raises:
        ValueError: a size that cannot be.
    """

    channels: int
    height: int
    width: int
    chunk_latents: int
    chunks_per_shard: int
    codec: Codec

    def __post_init__(self) -> None:
        if min(*self.chunk_shape, self.chunks_per_shard) < 1:
            raise ValueError(f"sizes must be at least 1: {self}")
        if self.chunk_nbytes > _MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk of {self.chunk_nbytes} bytes (at most {_MAX_CHUNK_BYTES})")
        if self.chunks_per_shard > _MAX_CHUNKS_PER_SHARD:
            raise ValueError(f"{self.chunks_per_shard} chunks in a shard")
        if self.codec not in CODECS:
            raise ValueError(f"unknown codec {self.codec!r}")

    @classmethod
    def plan(
        cls, meta: StoreMeta, codec: Codec, chunk_latents: int | None, shard_bytes: int
    ) -> Layout:
        """The layout for a store to be written.

        Args:
            chunk_latents: latent frames per chunk; None = about 1 MiB, whole segments if they fit.
            shard_bytes: target size of a shard in uncompressed bytes; a shard holds at least one
                chunk.

        Raises:
            UsageError: an argument that cannot work.
        """
        if codec not in CODECS:
            raise UsageError(f"unknown codec {codec!r}", fix=f"Use one of {CODECS}.")
        row = meta.channels * meta.latent_height * meta.latent_width * LITTLE_HALF.itemsize
        if chunk_latents is None:
            chunk_latents = max(1, CHUNK_BYTES // row)
            if meta.segment is not None:
                period = groups_covering(meta.segment, meta.temporal_ratio)
                chunk_latents -= chunk_latents % period if chunk_latents >= period else 0
        if chunk_latents < 1 or shard_bytes < 1:
            raise UsageError(
                f"chunk_latents={chunk_latents} and shard_bytes={shard_bytes}: below 1"
            )
        chunks = min(max(1, shard_bytes // (chunk_latents * row)), _MAX_CHUNKS_PER_SHARD)
        height, width = meta.latent_height, meta.latent_width
        try:
            return cls(meta.channels, height, width, chunk_latents, chunks, codec)
        except ValueError as error:
            raise UsageError("latents of this size cannot be stored", why=str(error)) from error

    def fitted(self, latents: int) -> Layout:
        """The layout for a store that turned out to have `latents` latent frames.

        A video shorter than one chunk gets a chunk of its own length, and one shorter than a shard
        a shard of its own length, so that short videos are not mostly padding. Chunks written so
        far stay valid: a chunk size only changes while no chunk is full yet.
        """
        chunk_latents = min(self.chunk_latents, latents)
        chunks = -(-latents // chunk_latents)
        return replace(
            self,
            chunk_latents=chunk_latents,
            chunks_per_shard=min(self.chunks_per_shard, chunks),
        )

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        return (self.chunk_latents, self.channels, self.height, self.width)

    @property
    def shard_shape(self) -> tuple[int, int, int, int]:
        return (self.chunk_latents * self.chunks_per_shard, *self.chunk_shape[1:])

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one latent frame."""
        return self.chunk_shape[1:]

    @property
    def row_nbytes(self) -> int:
        """Bytes of one latent frame."""
        return self.channels * self.height * self.width * LITTLE_HALF.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of a chunk before compression and checksum."""
        return self.chunk_latents * self.row_nbytes

    @property
    def index_nbytes(self) -> int:
        """Bytes of a shard's index, checksum included."""
        return self.chunks_per_shard * _INDEX_ENTRY_BYTES + CRC_BYTES

    def chunks(self, latents: int) -> int:
        """Chunks that hold `latents` latent frames."""
        return -(-latents // self.chunk_latents)

    def shards(self, latents: int) -> int:
        """Shards that hold `latents` latent frames."""
        return -(-self.chunks(latents) // self.chunks_per_shard)

    def chunks_in_shard(self, shard: int, latents: int) -> int:
        """Chunks present in shard `shard` of a store of `latents` latent frames."""
        return min(self.chunks_per_shard, self.chunks(latents) - shard * self.chunks_per_shard)

    def to_document(self, latents: int) -> Document:
        """Metadata of the array `latents` of shape `[latents, channels, height, width]`."""
        shape = (latents, self.channels, self.height, self.width)
        sharding = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(self.chunk_shape),
                "codecs": codec_documents(self.codec),
                "index_codecs": [BYTES_CODEC, CRC_CODEC],
                "index_location": "end",
            },
        }
        return array_document(shape, "float16", self.shard_shape, [sharding], DIMENSIONS)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> tuple[Layout, int]:
        """The layout and the number of latent frames that array metadata describes.

        Raises:
            ValueError: the metadata is not exactly what this version writes.
        """
        shape = _sizes(document, "shape")
        grid = take(take(document, "chunk_grid", dict), "configuration", dict)
        shard = _sizes(grid, "chunk_shape")
        codecs = take(document, "codecs", list)
        if len(codecs) != 1 or not isinstance(codecs[0], dict):
            raise ValueError(f"'codecs' must be one sharding codec, not {shown(codecs)}")
        sharding = take(codecs[0], "configuration", dict)
        chunk = _sizes(sharding, "chunk_shape")
        codec: Codec = "none" if sharding.get("codecs") == codec_documents("none") else "zstd"
        layout = cls(chunk[1], chunk[2], chunk[3], chunk[0], shard[0] // chunk[0], codec)
        # All that was not looked at above is checked by writing it again.
        if layout.to_document(shape[0]) != document:
            raise ValueError("the array's metadata is not that of format version 1")
        return layout, shape[0]


def shard_name(shard: int) -> str:
    """File name of a shard in the array's folder (chunk key encoding "default", separator ".").

    With "." every shard lies in one folder, so one fsync of it makes all names durable.
    """
    return f"c.{shard}.0.0.0"


def array_document(
    shape: tuple[int, ...],
    data_type: str,
    chunk_shape: tuple[int, ...],
    codecs: list[dict[str, Any]],
    dimensions: tuple[str, ...],
) -> Document:
    """Metadata of a Zarr v3 array whose holes read as NaN."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(dimensions),
        "storage_transformers": [],
    }


def _sizes(document: Mapping[str, Any], key: str) -> list[int]:
    values = take(document, key, list)
    if len(values) != 4 or not all(type(n) is int and 0 < n < 2**62 for n in values):
        raise ValueError(f"{key!r} must be four sizes of at least 1, not {shown(values)}")
    return values
