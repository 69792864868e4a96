"""Latent stores on disk: the only place that knows Zarr, and one that knows nothing of models.

A store is a Zarr v3 group that any Zarr reader opens. It is written and read here without the
`zarr` package, so that its bytes depend on the format version alone, chunks can be appended in
constant memory, and every fault is named exactly.
"""

from pvtok.store.fingerprint import fingerprint_file
from pvtok.store.header import FORMAT_VERSION
from pvtok.store.info import store_info
from pvtok.store.meta import StoreMeta
from pvtok.store.reader import LatentArray, LatentStore, open_store
from pvtok.store.verify import Fault, verify_store
from pvtok.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "Fault",
    "LatentArray",
    "LatentStore",
    "StoreMeta",
    "StoreWriter",
    "fingerprint_file",
    "open_store",
    "store_info",
    "verify_store",
]
