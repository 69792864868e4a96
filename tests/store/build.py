"""Small stores to test with: 4 latents per chunk, 3 chunks per shard."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtok.store import StoreMeta, StoreWriter

ROW = (3, 2, 2)
CHUNK = 4
SHARD = 12
SMALL: dict[str, Any] = {"chunk_latents": CHUNK, "shard_bytes": SHARD * 3 * 2 * 2 * 2}


def make_meta(**changes: Any) -> StoreMeta:
    values: dict[str, Any] = {
        "model_name": "tiny",
        "model_sha256": "ab" * 32,
        "model_config": {"latent_channels": 3, "widths": (8, 16), "eps": 1e-6},
        "channels": 3,
        "latent_height": 2,
        "latent_width": 2,
        "temporal_ratio": 4,
        "spatial_ratio": 16,
        "fps": Fraction(30000, 1001),
        "width": 30,
        "height": 31,
        "crop": (1, 0, 1, 1),
        "tail": "repeat_last",
        "source": {"name": "clip \u00e9.mp4", "fingerprint": "cd" * 32},
        "latent_mean": [0.5, -1.0, 1e-05],
        "latent_std": [2.0, 0.25, 1.5],
        "color": {"matrix": "bt709", "range": "limited"},
        "compute_dtype": "float32",
        "tool_version": "0.1.0",
    }
    return StoreMeta(**{**values, **changes})


def make_latents(count: int, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal((count, *ROW)).astype(np.float16)


def frames_of(latents: int) -> int:
    return 1 + 4 * (latents - 1)


def write(
    path: Path,
    latents: NDArray[Any],
    *,
    plan: list[int] | None = None,
    meta: StoreMeta | None = None,
    timestamps: Any = None,
    frames: int | None = None,
    **options: Any,
) -> Path:
    """Write a store, appending in pieces of the sizes of `plan`, then the rest."""
    with StoreWriter.create(path, meta or make_meta(), **{**SMALL, **options}) as writer:
        for piece in np.split(latents, np.cumsum(plan or [])):
            writer.append(piece)
        writer.finish(frames=frames or frames_of(len(latents)), timestamps=timestamps)
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def copy(path: Path, target: Path) -> Path:
    shutil.copytree(path, target)
    return target
