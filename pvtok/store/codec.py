"""Chunks as bytes: little-endian float16, optionally zstd, always closed by a CRC-32C.

These are Zarr's core codecs `bytes`, `zstd` and `crc32c`, in this order:
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/index.html
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import google_crc32c
import numpy as np
from numpy.typing import NDArray

Codec = Literal["none", "zstd"]

CODECS: tuple[Codec, ...] = get_args(Codec)

ZSTD_LEVEL = 3

CRC_BYTES = 4

Half = NDArray[np.float16]

LITTLE_HALF = np.dtype("<f2")

BYTES_CODEC: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
CRC_CODEC: dict[str, Any] = {"name": "crc32c"}
ZSTD_CODEC: dict[str, Any] = {
    "name": "zstd",
    "configuration": {"level": ZSTD_LEVEL, "checksum": False},
}


def codec_documents(codec: Codec) -> list[dict[str, Any]]:
    """The codec chain as Zarr metadata."""
    return [BYTES_CODEC, CRC_CODEC] if codec == "none" else [BYTES_CODEC, ZSTD_CODEC, CRC_CODEC]


def crc32c(data: bytes, start: int = 0) -> int:
    """CRC-32C of `data`, going on from the CRC `start` of what came before it."""
    return int(google_crc32c.extend(start, data))


def seal(body: bytes) -> bytes:
    """`body` followed by its CRC-32C, 4 bytes little-endian."""
    return body + crc32c(body).to_bytes(CRC_BYTES, "little")


def unseal(data: bytes) -> bytes:
    """The body of sealed bytes.

    Raises:
        ValueError: the checksum does not match.
    """
    body = data[:-CRC_BYTES]
    if len(data) < CRC_BYTES or data[-CRC_BYTES:] != crc32c(body).to_bytes(CRC_BYTES, "little"):
        raise ValueError("its checksum does not match")
    return body


def encode_chunk(chunk: Half, codec: Codec) -> bytes:
    """The stored bytes of one chunk."""
    body = chunk.astype(LITTLE_HALF, copy=False).tobytes()
    return seal(body if codec == "none" else _zstd().compress(body, ZSTD_LEVEL))


def decode_chunk(data: bytes, shape: tuple[int, ...], codec: Codec) -> Half:
    """The chunk of shape `shape` that `data` holds.

    Raises:
        ValueError: the checksum does not match or the size is wrong.
    """
    body = unseal(data)
    nbytes = int(np.prod(shape, dtype=np.int64)) * LITTLE_HALF.itemsize
    if codec == "zstd":
        body = _decompress(body, nbytes)
    if len(body) != nbytes:
        raise ValueError(f"it holds {len(body)} bytes instead of {nbytes}")
    return np.frombuffer(body, LITTLE_HALF).reshape(shape)


def _decompress(body: bytes, nbytes: int) -> bytes:
    # A buffer of the right size keeps a decompression bomb from growing. It begins as all ones,
    # which are NaN as float16, so that bytes left unwritten cannot pass for data.
    buffer = bytearray(b"\xff") * nbytes
    try:
        return bytes(_zstd().decompress(body, buffer))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error


def _zstd() -> Any:
    # Imported when needed: it costs more time than the rest of the store.
    from numcodecs import zstd  # type: ignore[import-untyped]

    return zstd
