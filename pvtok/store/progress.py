"""The checkpoint of an unfinished store: how far it is, and what is needed to go on exactly.

`progress.json` is replaced in one step and seals itself and the file it names. That file,
`checkpoint-N.bin`, holds the latent frames that do not fill a chunk yet, then the caller's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtok.errors import CorruptStoreError, StoreError
from pvtok.store.codec import crc32c
from pvtok.store.documents import Document, digest, dump, read, take
from pvtok.store.files import PROGRESS_FILE, remove, replace_durably, write_durably

_VERSION = 1
_SEAL = "progress_sha256"


@dataclass(frozen=True)
class Progress:
    """One checkpoint.

    Args:
        serial: how many checkpoints came before; 0 is the empty one made at the start.
        latents: latent frames that are safe.
        shard_sizes: bytes of each chunk in the shard being written, in order.
        rows: little-endian float16 bytes of the latent frames after the last full chunk.
        state: the caller's bytes; None = none given.
        overwrite: whether the finished store may replace an older one.
        key: what must be the same for the encode to go on (see `resume_key` in writer.py).
    """

    serial: int
    latents: int
    shard_sizes: list[int]
    rows: bytes
    state: bytes | None
    overwrite: bool
    key: Document

    def save(self, folder: Path) -> None:
        """Write the checkpoint durably; a kill at any point leaves this one or the one before.

        Raises:
            OSError: it cannot be written.
        """
        name = f"checkpoint-{self.serial}.bin"
        state = self.state or b""
        write_durably(folder / name, self.rows, state)
        document: Document = {
            "progress_version": _VERSION,
            "note": "An unfinished pvtok store: run the same encode again with --resume.",
            "serial": self.serial,
            "latents": self.latents,
            "shard_sizes": self.shard_sizes,
            "file": name,
            "rows_nbytes": len(self.rows),
            "state_nbytes": None if self.state is None else len(state),
            "crc32c": crc32c(state, crc32c(self.rows)),
            "overwrite": self.overwrite,
            "key": self.key,
        }
        document[_SEAL] = digest(document)
        replace_durably(folder / PROGRESS_FILE, dump(document))
        for old in folder.glob("checkpoint-*.bin"):
            if old.name != name:
                remove(old)

    @classmethod
    def load(cls, folder: Path) -> Progress:
        """Read the checkpoint of an unfinished store.

        Raises:
            CorruptStoreError: it is damaged.
            StoreError: it was made by a newer version, or cannot be read.
        """
        try:
            document = read(folder / PROGRESS_FILE)
            if document.get("progress_version") != _VERSION:
                raise ValueError(f"its version is {document.get('progress_version')!r}")
            if document.pop(_SEAL, None) != digest(document):
                raise ValueError("progress.json does not match its checksum")
            return cls._from_document(folder, document)
        except (ValueError, RecursionError) as error:
            raise damaged_partial(folder, str(error)) from error
        except FileNotFoundError as error:
            raise damaged_partial(folder, f"{error.filename} is missing") from error
        except OSError as error:
            raise StoreError(f"cannot read {folder}", why=error.strerror or str(error)) from error

    @classmethod
    def _from_document(cls, folder: Path, document: dict[str, Any]) -> Progress:
        data = (folder / take(document, "file", str)).read_bytes()
        split = take(document, "rows_nbytes", int)
        state_nbytes = document["state_nbytes"]
        if len(data) != split + (state_nbytes or 0) or crc32c(data) != document["crc32c"]:
            raise ValueError(f"{document['file']} does not match its checksum")
        return cls(
            serial=take(document, "serial", int),
            latents=take(document, "latents", int),
            shard_sizes=take(document, "shard_sizes", list),
            rows=data[:split],
            state=None if state_nbytes is None else data[split:],
            overwrite=take(document, "overwrite", bool),
            key=take(document, "key", dict),
        )


def damaged_partial(folder: Path, why: str) -> CorruptStoreError:
    """The error for an unfinished store that cannot be resumed."""
    return CorruptStoreError(
        f"the unfinished store {folder} is damaged",
        why=why,
        fix="Start afresh with --overwrite.",
    )
