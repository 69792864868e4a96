"""Check a store against everything it says about itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pvtok.errors import StoreError, StoreVersionError
from pvtok.store.documents import dump, read
from pvtok.store.files import resolved
from pvtok.store.header import (
    LATENTS,
    METADATA_FILE,
    TIMESTAMPS,
    Header,
    is_sealed,
    read_header,
)
from pvtok.store.layout import shard_name
from pvtok.store.reader import LatentStore
from pvtok.store.shard import Shard


@dataclass(frozen=True)
class Fault:
    """Something wrong with a store: where, and what."""

    where: str
    what: str


def verify_store(path: str | os.PathLike[str]) -> list[Fault]:
    """Every fault of a store; an empty list means that it is whole.

    Reads all of it: metadata and its checksums, the checksum of every chunk and index, missing
    and unfinished parts, NaN where there must be latents, sizes, files that do not belong.
    Memory: one chunk.

    Raises:
        StoreError: there is nothing at `path` that could be a store.
        StoreVersionError: the store is of a newer format, undamaged as far as can be told.
    """
    folder = resolved(path)
    try:
        header = read_header(folder)
    except StoreVersionError:
        if is_sealed(read(folder / METADATA_FILE)["attributes"]["pvtok"]):
            raise
        return [Fault(METADATA_FILE, "the format version is unknown and the checksum wrong")]
    except StoreError as error:
        if not folder.is_dir() and type(error) is StoreError:
            raise
        return [Fault(str(folder), error.why or error.what)]
    return [
        *_metadata_faults(folder, header),
        *_latent_faults(folder, header),
        *_timestamp_faults(folder, header),
        *_unexpected_files(folder, header),
    ]


def _metadata_faults(folder: Path, header: Header) -> Iterator[Fault]:
    """Bytes that parse to the right values but are not as written (such as 1e-5 as 1E-5)."""
    for name in header.documents():
        if dump(read(folder / name)) != (folder / name).read_bytes():
            yield Fault(name, "its bytes are not as they were written")


def _latent_faults(folder: Path, header: Header) -> Iterator[Fault]:
    layout, latents = header.layout, header.latents
    for number in range(layout.shards(latents)):
        name = f"{LATENTS}/{shard_name(number)}"
        try:
            shard = Shard(folder / LATENTS, number, layout, latents)
        except FileNotFoundError:
            yield Fault(name, "it is missing")
        except (ValueError, OSError) as error:
            yield Fault(name, str(error))
        else:
            with shard:
                yield from _chunk_faults(name, shard, number, header)


def _chunk_faults(name: str, shard: Shard, number: int, header: Header) -> Iterator[Fault]:
    size = header.layout.chunk_latents
    first = number * header.layout.chunks_per_shard
    for chunk in range(first, first + header.layout.chunks_in_shard(number, header.latents)):
        try:
            shard.rows(chunk, 0, min(size, header.latents - chunk * size))
        except (ValueError, OSError) as error:
            yield Fault(name, str(error))


def _timestamp_faults(folder: Path, header: Header) -> Iterator[Fault]:
    try:
        _ = LatentStore(folder, header).timestamps
    except StoreError as error:
        yield Fault(TIMESTAMPS, error.why)


def _unexpected_files(folder: Path, header: Header) -> Iterator[Fault]:
    shards = range(header.layout.shards(header.latents))
    expected = {*header.documents(), *(f"{LATENTS}/{shard_name(n)}" for n in shards)}
    expected |= {f"{TIMESTAMPS}/c.0"} if header.has_timestamps else set()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if name not in expected and (not file.is_dir() or name not in (LATENTS, TIMESTAMPS)):
            yield Fault(name, "it does not belong to the store")
