"""A fingerprint of a source file, so that a resumed encode goes on with the same one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pvtok.errors import StoreError

_BLOCK_BYTES = 2**20


def fingerprint_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) over a file's size (8 bytes, little-endian) and its whole content.

    Raises:
        StoreError: it is no regular file or cannot be read.
    """
    file_path = Path(path)
    try:
        if not file_path.is_file():
            raise StoreError(f"there is no file {file_path}")
        with file_path.open("rb", buffering=0) as file:
            digest = hashlib.sha256(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"cannot read {file_path}", why=reason) from error
    return digest.hexdigest()
