"""Write a store in constant memory, with checkpoints from which a killed run goes on exactly.

The store grows in the folder `store` of a sibling `NAME.zarr.partial`; when it is whole it is
renamed to its own name, so nothing unfinished is ever seen there. Chunks are appended to their
shard as they fill; a shard is closed by its index and never touched again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import NonFiniteError, OutputExistsError, StoreError, UsageError
from pvtok.store import compare, partial
from pvtok.store.codec import LITTLE_HALF, Codec, Half, encode_chunk, seal
from pvtok.store.counts import kept_frames, latents_under
from pvtok.store.documents import dump
from pvtok.store.files import (
    FolderLock,
    absolute,
    partial_of,
    sync_folder,
    write_all,
    write_durably,
    writing,
)
from pvtok.store.header import LATENTS, TIMESTAMPS, Header
from pvtok.store.layout import SHARD_BYTES, Layout, shard_name
from pvtok.store.meta import StoreMeta
from pvtok.store.progress import Progress
from pvtok.store.shard import encode_index
