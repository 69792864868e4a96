"""The metadata of a finished store: what its three `zarr.json` files say, written and checked.

The group's attributes hold one dict, `pvtok`. In it, `array_sha256` seals the metadata of each
array and `metadata_sha256` seals all else in the dict, so that no flipped bit in metadata passes
unseen. Reading is strict: the parsed values are written again and must come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtok.errors import CorruptStoreError, PvtokError, StoreError, StoreVersionError
from pvtok.store.codec import BYTES_CODEC, CRC_CODEC
from pvtok.store.counts import kept_frames, latents_under
from pvtok.store.documents import Document, digest, read, shown, take
from pvtok.store.files import PROGRESS_FILE, partial_of
from pvtok.store.layout import Layout, array_document
from pvtok.store.meta import StoreMeta

FORMAT_VERSION = 1
KIND = "video"
LATENTS = "latents"
TIMESTAMPS = "timestamps"
METADATA_FILE = "zarr.json"

_SEAL = "metadata_sha256"


@dataclass(frozen=True)
class Header:
    """All metadata of a finished store.

    Args:
        latents: latent frames in the array.
        frames: frames of the video that they stand for.
        dropped_frames: frames of the source after those, left out by the tail policy "drop".
        has_timestamps: whether there is an array `timestamps` of `frames` times.

    Raises:
        ValueError: frames and latents do not belong together.
    """

    meta: StoreMeta
    layout: Layout
    latents: int
    frames: int
    dropped_frames: int
    has_timestamps: bool

    def __post_init__(self) -> None:
        meta = self.meta
        geometry = (meta.channels, meta.latent_height, meta.latent_width)
        if self.layout.chunk_shape[1:] != geometry:
            raise ValueError(f"latents {self.layout.chunk_shape[1:]} are not {geometry}")
        if self.frames < 1 or self.dropped_frames < 0:
            raise ValueError(f"{self.frames} frames, {self.dropped_frames} dropped")
        stream = (meta.tail, meta.temporal_ratio, meta.segment)
        total = self.frames + self.dropped_frames
        if (latents_under(total, *stream), kept_frames(total, *stream)) != (
            self.latents,
            self.frames,
        ):
            raise ValueError(
                f"{self.latents} latents do not stand for {self.frames} frames"
                f" (and {self.dropped_frames} dropped)"
            )

    def documents(self) -> dict[str, Document]:
        """Every metadata file: path inside the store -> JSON document."""
        arrays = {LATENTS: self.layout.to_document(self.latents)}
        if self.has_timestamps:
            arrays[TIMESTAMPS] = timestamps_document(self.frames)
        block: Document = {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            "complete": True,
            "frames": self.frames,
            "dropped_frames": self.dropped_frames,
            **self.meta.to_document(),
            "array_sha256": {name: digest(array) for name, array in arrays.items()},
        }
        block[_SEAL] = digest(block)
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"pvtok": block},
            # A copy of the arrays' metadata: xarray warns where it is missing.
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        }
        files = {f"{name}/{METADATA_FILE}": array for name, array in arrays.items()}
        return {METADATA_FILE: group, **files}


def read_header(path: Path) -> Header:
    """Read and check the metadata of the store at `path`.

    Raises:
        StoreError: there is no pvtok store.
        StoreVersionError: it is of a newer format.
        CorruptStoreError: its metadata is damaged, or the store is not finished.
    """
    _refuse_absent(path)
    group = _read_document(path, METADATA_FILE)
    attributes = group.get("attributes")
    if not isinstance(attributes, dict) or not isinstance(attributes.get("pvtok"), dict):
        raise StoreError(
            f"{path} is not a pvtok store",
            why="its zarr.json has no 'pvtok' attributes",
            fix="Make one with 'pvtok encode'.",
        )
    block = attributes["pvtok"]
    try:
        _check_block(path, block)
        return _check_all(path, group, block)
    except StoreError:
        raise
    except (PvtokError, ValueError, OverflowError, RecursionError) as error:
        raise damaged(path, f"{METADATA_FILE}: {error}") from error


def damaged(path: Path, why: str) -> CorruptStoreError:
    """The error for a store with a fault."""
    return CorruptStoreError(
        f"{path} is damaged",
        why=why,
        fix=f"'pvtok verify {path}' lists every fault; encode again with --overwrite.",
    )


def is_sealed(block: Mapping[str, Any]) -> bool:
    """Whether a `pvtok` block is as it was written."""
    return block.get(_SEAL) == digest({key: block[key] for key in block if key != _SEAL})


def timestamps_document(frames: int) -> Document:
    """Metadata of the array `timestamps`: seconds, float64 `[frames]`, one chunk."""
    codecs = [BYTES_CODEC, CRC_CODEC]
    return array_document((frames,), "float64", (frames,), codecs, ("video_frame",))


def _refuse_absent(path: Path) -> None:
    partial = partial_of(path) if not path.exists() else path
    if partial.suffix == ".partial" and (partial / PROGRESS_FILE).is_file():
        raise CorruptStoreError(
            f"{partial.with_suffix('')} is not finished",
            why=f"an unfinished encode is in {partial}",
            fix="Run the same 'pvtok encode' again with --resume to go on, or with --overwrite.",
        )
    if not path.exists():
        raise StoreError(f"there is no store at {path}", fix="Make one with 'pvtok encode'.")
    if not (path / METADATA_FILE).is_file():
        raise StoreError(f"{path} is not a store", why=f"it holds no {METADATA_FILE}")


def _check_block(path: Path, block: Document) -> None:
    found = take(block, "format_version", int)
    if found > FORMAT_VERSION:
        raise StoreVersionError(
            f"{path} has format version {found}",
            why=f"this pvtok reads version {FORMAT_VERSION}",
            fix="Upgrade pvtok." if is_sealed(block) else "Upgrade pvtok, or the file is damaged.",
        )
    if not is_sealed(block):
        raise damaged(path, f"{METADATA_FILE}: the attributes do not match their checksum")
    if found != FORMAT_VERSION:
        raise ValueError(f"there is no format version {found}")
    if take(block, "kind", str) != KIND:
        raise StoreError(f"{path} holds a {shown(block['kind'])}, not a single video")
    if not take(block, "complete", bool):
        raise CorruptStoreError(f"{path} is not finished", fix="Encode again with --overwrite.")


def _check_all(path: Path, group: Document, block: Document) -> Header:
    seals = take(block, "array_sha256", dict)
    arrays = {
        name: _read_document(path, f"{name}/{METADATA_FILE}")
        for name in (LATENTS, TIMESTAMPS)
        if name in seals
    }
    for name, array in arrays.items():
        if digest(array) != seals[name]:
            raise damaged(path, f"{name}/{METADATA_FILE} does not match its checksum")
    layout, latents = Layout.from_document(take(arrays, LATENTS, dict))
    header = Header(
        meta=StoreMeta.from_document(block),
        layout=layout,
        latents=latents,
        frames=take(block, "frames", int),
        dropped_frames=take(block, "dropped_frames", int),
        has_timestamps=TIMESTAMPS in arrays,
    )
    # Other attributes beside ours are the user's own.
    found = {METADATA_FILE: {**group, "attributes": {"pvtok": block}}}
    found.update((f"{name}/{METADATA_FILE}", array) for name, array in arrays.items())
    for name, document in header.documents().items():
        if found[name] != document:
            raise ValueError(f"{name} is not what format version {FORMAT_VERSION} writes")
    return header


def _read_document(path: Path, name: str) -> Document:
    try:
        return read(path / name)
    except FileNotFoundError as error:
        raise damaged(path, f"{name} is missing") from error
    except ValueError as error:
        raise damaged(path, f"{name}: {error}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path / name}", why=error.strerror or str(error)) from error
