"""Training clips: videos decoded once into memory-mapped arrays, cut at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvtok.groups import FramesTHWC

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}


def cache_clips(folder: Path, cache: Path, short_side: int, max_frames: int) -> list[Path]:
    """Decode every video under `folder` to `cache/NAME.npy`, uint8 `[T, H, W, 3]`, once."""
    cache.mkdir(parents=True, exist_ok=True)
    files = []
    for video in sorted(p for p in folder.rglob("*") if p.suffix in VIDEO_SUFFIXES):
        target = cache / f"{video.stem}.npy"
        if not target.exists():
            from pvtok.video import ReadOptions, read_frames

            frames = read_frames(video, ReadOptions(size=short_side, max_frames=max_frames))
            scratch = target.with_suffix(".tmp.npy")
            np.save(scratch, frames)
            scratch.rename(target)
        files.append(target)
    return files


class RandomCrops:
    """Endless random crops: place, moment, mirror image and direction of time are drawn anew.

    Random time reversal is the paper's augmentation (figure 2).
    """

    def __init__(self, files: list[Path], frames: int, size: int, seed: int) -> None:
        self.clips: list[FramesTHWC] = [np.load(f, mmap_mode="r") for f in files]
        self.clips = [c for c in self.clips if len(c) >= frames]
        self.frames, self.size = frames, size
        self.generator = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """`[count, 3, frames, size, size]` in [-1, 1]."""
        return torch.stack([self._crop() for _ in range(count)])

    def _crop(self) -> Tensor:
        rng = self.generator
        clip = self.clips[rng.integers(len(self.clips))]
        T, H, W, _ = clip.shape
        t = rng.integers(T - self.frames + 1)
        y, x = rng.integers(H - self.size + 1), rng.integers(W - self.size + 1)
        crop = clip[t : t + self.frames, y : y + self.size, x : x + self.size]
        crop = crop[:, :, ::-1] if rng.random() < 0.5 else crop
        crop = crop[::-1] if rng.random() < 0.5 else crop
        frames = torch.from_numpy(np.ascontiguousarray(crop))
        return frames.permute(3, 0, 1, 2).float() / 127.5 - 1.0
