"""Clips made for the tests."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvtok.video import VideoWriter, find_ffmpeg


def smooth(frames: int = 6, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Moving gradients with a gentle texture, uint8 `[T, H, W, 3]`, of all hues."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    red = 127 + 100 * np.sin(x / 23 + t / 5) + 15 * np.sin(y / 7)
    green = 127 + 100 * np.cos(y / 31 - t / 7) + 15 * np.sin(x / 9 + y / 11)
    blue = 127 + 100 * np.sin((x + y) / 40 + t / 3) + 15 * np.cos(x / 6)
    return np.stack([red, green, blue], -1).clip(0, 255).round().astype(np.uint8)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """dB between two clips of one shape; infinite where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def save(
    path: Path, frames: NDArray[np.uint8], fps: Fraction = Fraction(25), **options: object
) -> Path:
    """Write frames with the writer under test."""
    height, width = frames.shape[1:3]
    with VideoWriter(path, width, height, fps, **options) as writer:  # type: ignore[arg-type]
        writer.write(frames)
    return path


def ffmpeg(*args: object, data: bytes | None = None) -> bytes:
    """Run ffmpeg itself, for files that our writer does not make."""
    command = [find_ffmpeg(), "-v", "error", "-y", *map(str, args)]
    quiet = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **quiet).stdout


def pattern(path: Path, *args: object, size: str = "64x48", frames: int = 8) -> Path:
    """ffmpeg's test picture, with any output options."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", frames, *args, path)
    return path
