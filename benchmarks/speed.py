"""Speed of the bundled model: the model alone, and the commands from file to file.

    python benchmarks/speed.py VIDEO

Protocol: steady-state steps of one stream at the video's size, random frames, 3 warm-up and 10
timed steps, median; then `encode` and `decode` of the whole file, 3 runs each, median, model
loading left out. Rows go to `results/speed.jsonl`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rows

from pvtok.convert import decode_store, encode_video
from pvtok.store import open_store
from pvtok.tokenizer import Tokenizer
from pvtok.video import probe

WARM_UP, TIMED, RUNS = 3, 10, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video", type=Path)
    args = parser.parse_args()
    info = probe(args.video)
    results = []
    for dtype in ("fp32", "bf16"):
        tok = Tokenizer.load("tiny", dtype=dtype)
        common = {
            "model": tok.name,
            "dtype": dtype,
            "height": info.height,
            "width": info.width,
            **rows.environment(),
        }
        found = {**steps(tok, info.height, info.width), **files(tok, args.video)}
        for name, values in found.items():
            row = {"name": name, "unit": "frames/s", **values, **common}
            print(row)
            results.append(row)
    print(rows.write("speed", results))


def steps(tok: Tokenizer, height: int, width: int) -> dict[str, dict[str, Any]]:
    """Frames per second of steady encode and decode steps."""
    count = tok.config.temporal_ratio * tok.chunk_groups(height, width)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    latents, encoding = tok.encode_step(frames[:1], None)
    _, decoding = tok.decode_step(latents, None)
    latents, _ = tok.encode_step(frames, encoding)
    return {
        "encode, model alone": rate(count, lambda: tok.encode_step(frames, encoding)),
        "decode, model alone": rate(count, lambda: tok.decode_step(latents, decoding)),
    }


def files(tok: Tokenizer, video: Path) -> dict[str, dict[str, Any]]:
    """Frames per second from file to file."""
    speeds: dict[str, list[float]] = {"encode, file to store": [], "decode, store to file": []}
    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder, "a.zarr"), Path(folder, "a.mp4")
        for _ in range(RUNS):
            encoded = encode_video(tok, video, store, overwrite=True)
            speeds["encode, file to store"].append(encoded.frames / encoded.seconds)
            decoded = decode_store(tok, open_store(store), out, overwrite=True)
            speeds["decode, store to file"].append(decoded.frames / decoded.seconds)
    return {name: spread(values) for name, values in speeds.items()}


def rate(count: int, step: Callable[[], object]) -> dict[str, Any]:
    speeds = []
    for i in range(WARM_UP + TIMED):
        begun = time.perf_counter()
        step()
        if i >= WARM_UP:
            speeds.append(count / (time.perf_counter() - begun))
    return spread(speeds)


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "value": round(statistics.median(values), 1),
        "lowest": round(min(values), 1),
        "highest": round(max(values), 1),
        "runs": len(values),
    }


if __name__ == "__main__":
    main()
