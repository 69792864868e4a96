"""What a store is, in one dict for people and programs."""

from __future__ import annotations

from typing import Any

from pvtok.store.header import FORMAT_VERSION, KIND
from pvtok.store.reader import LatentStore


def store_info(store: LatentStore) -> dict[str, Any]:
    """A JSON-ready description of a store.

    `fps` is a float (`fps_ratio` exact), `latent_shape` is (latents, channels, height, width),
    `bytes` is what all its files hold.
    """
    meta, layout = store.meta, store.layout
    return {
        "kind": KIND,
        "frames": store.frames,
        "width": meta.width,
        "height": meta.height,
        "fps": float(meta.fps),
        "latent_shape": list(store.latents.shape),
        "dtype": store.latents.dtype.name,
        "model": meta.model_name,
        "complete": True,  # an unfinished store cannot be opened
        "format_version": FORMAT_VERSION,
        "model_sha256": meta.model_sha256,
        "fps_ratio": [meta.fps.numerator, meta.fps.denominator],
        "variable_rate": store.timestamps is not None,
        "normalized": False,
        "has_statistics": store.mean is not None,
        "temporal_ratio": meta.temporal_ratio,
        "spatial_ratio": meta.spatial_ratio,
        "segment": meta.segment,
        "tail": meta.tail,
        "dropped_frames": store.dropped_frames,
        "crop": list(meta.crop),
        "source": meta.source,
        "color": meta.color,
        "compute_dtype": meta.compute_dtype,
        "tool_version": meta.tool_version,
        "extra": meta.extra,
        "codec": layout.codec,
        "chunk_shape": list(layout.chunk_shape),
        "shard_shape": list(layout.shard_shape),
        "shards": layout.shards(len(store.latents)),
        "bytes": sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
    }
