"""End to end: from file to store and back, against the model alone on the same frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvtok.bench.timing import Counts, Times, interleave
from pvtok.convert import decode_store, encode_video
from pvtok.groups import frames_in, grouped, groups_covering
from pvtok.scenes import render_scene
from pvtok.store import open_store
from pvtok.tokenizer import Tokenizer
from pvtok.video import ReadOptions, VideoReader, VideoWriter

FRAMES = 241
"""Ten seconds and a frame."""
SCENE = "a procedural scene"
PROTOCOLS = {"encode": "file to store", "decode": "store to file"}


@dataclass(frozen=True)
class EndToEnd:
    """One direction, end to end and without files."""

    size: tuple[int, int, int]
    """Frames, height, width."""
    files: Times
    model: Times

    @property
    def share(self) -> float:
        """Of the model-only throughput that is left end to end."""
        return self.model.median / self.files.median


def end_to_end(
    tok: Tokenizer,
    video: Path | None,
    frames: int,
    height: int,
    width: int,
    counts: Counts,
    progress: Callable[[int], None] | None = None,
) -> list[EndToEnd]:
    """Measure encoding and decoding, taking turns with the model alone.

    The model alone works on chunks that are on the device already and hands nothing back.

    Args:
        video: a file, of which at most `frames` frames are used at their own size; None makes a
            procedural clip of `frames` frames of `height` x `width`.
        progress: called with the number of each part that has just run.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = _scene(Path(folder), frames, height, width) if video is None else video
        store, out = Path(folder, "clip.zarr"), Path(folder, "out.mp4")
        options = ReadOptions(max_frames=frames)
        with VideoReader(source, options) as reader:
            clip = np.concatenate(list(reader))
        cut = grouped([clip], tok.chunk_groups(*clip.shape[1:3]), "repeat_last")
        chunks = [torch.from_numpy(c).to(tok.device)[None] for c in cut]
        latents = _encode(tok, chunks)
        encode_video(tok, source, store, options=options)
        runs = (
            lambda: encode_video(tok, source, store, options=options, overwrite=True),
            lambda: _encode(tok, chunks),
            lambda: decode_store(tok, open_store(store), out, overwrite=True),
            lambda: _decode(tok, latents),
        )
        times = interleave(runs, tok.device, counts, progress)
    frames, height, width, _ = clip.shape
    size = (frames, height, width)
    return [EndToEnd(size, times[0], times[1]), EndToEnd(size, times[2], times[3])]


def whole_groups(frames: int) -> int:
    """Frames that are computed for so many: the last group is filled up."""
    return frames_in(groups_covering(frames))


def _scene(folder: Path, frames: int, height: int, width: int) -> Path:
    path = folder / "scene.mp4"
    with VideoWriter(path, width, height, Fraction(24)) as writer:
        for chunk in render_scene(0, frames, height, width):
            writer.write(chunk)
    return path


@torch.inference_mode()
def _encode(tok: Tokenizer, chunks_BTHWC: list[Tensor]) -> list[Tensor]:
    state: Any = None
    latents = []
    for chunk in chunks_BTHWC:
        z, state = tok.steps.encode(chunk, state)
        latents.append(z)
    return latents


@torch.inference_mode()
def _decode(tok: Tokenizer, latents_BCTHW: list[Tensor]) -> None:
    state: Any = None
    for z in latents_BCTHW:
        _, _, state = tok.steps.decode(z, state)
