"""`make demo`: the main job on a scene of our own making, and what came of it.

Renders a clip, encodes, inspects, verifies, decodes, predicts and evaluates it by the command
line's own commands, and leaves everything in `demo/`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pvtok.contact_sheet import contact_sheet
from pvtok.scenes import render_scene
from pvtok.video import VideoWriter, read_frames

FOLDER = Path("demo")
SEED, FRAMES, SIZE, FPS = 8, 96, 256, 24


def main() -> None:
    begun = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    with VideoWriter(FOLDER / "scene.mp4", SIZE, SIZE, Fraction(FPS), crf=12) as writer:
        for chunk in render_scene(SEED, FRAMES, SIZE, SIZE, FPS):
            writer.write(chunk)
    print(f"rendered demo/scene.mp4: {FRAMES} frames of {SIZE}x{SIZE}")

    encoded = pvtok("encode", "scene.mp4", "-o", "latents.zarr")
    store = pvtok("info", "latents.zarr")
    whole = pvtok("verify", "latents.zarr")
    decoded = pvtok("decode", "latents.zarr", "-o", "reconstructed.mp4")
    predicted = pvtok("predict", "scene.mp4", "--context", "9", "--at", "24")
    scores = pvtok("eval", "scene.mp4", "latents.zarr")

    scene = read_frames(FOLDER / "scene.mp4")
    future = read_frames(FOLDER / "predicted.mp4")
    sheet = contact_sheet(
        [
            ("source", scene),
            ("reconstructed", read_frames(FOLDER / "reconstructed.mp4")),
            ("what came: 9 frames, then 8", scene[24 : 24 + len(future)]),
            ("context, then predicted (orange)", future),
        ]
    )
    Image.fromarray(np.asarray(sheet)).save(FOLDER / "contact_sheet.png")

    raw = encoded["frames"] * SIZE * SIZE * 3
    source_bytes = (FOLDER / "scene.mp4").stat().st_size
    rows = [
        ("frames", f"{encoded['frames']} of {encoded['width']}x{encoded['height']}"),
        ("latents", "x".join(map(str, encoded["latent_shape"])) + f" {store['dtype']}"),
        ("store", f"{store['bytes'] / 1e3:.0f} kB, {raw / store['bytes']:.0f}x under raw RGB"
                  f" (scene.mp4: {source_bytes / 1e3:.0f} kB)"),
        ("whole", "yes" if whole["ok"] else "NO"),
        ("encode", f"{encoded['frames_per_second']:.1f} frames/s"),
        ("decode", f"{decoded['frames_per_second']:.1f} frames/s"),
        ("PSNR", f"{scores['psnr']:.2f} dB"),
        ("SSIM", _number(scores, "ssim")),
        ("MS-SSIM", _number(scores, "ms_ssim")),
        ("VMAF", _number(scores, "vmaf")),
        ("predicted PSNR", f"{predicted['psnr']:.2f} dB"
                           f" (repeating the last frame: {predicted['psnr_copy_last']:.2f} dB)"),
    ]  # fmt: skip
    print("\n".join(f"  {name:<15} {value}" for name, value in rows))
    print(f"left in demo/: {', '.join(sorted(p.name for p in FOLDER.iterdir()))}")
    print(f"{time.monotonic() - begun:.0f} s in all")


def pvtok(*arguments: str) -> dict[str, Any]:
    """Run a command as a user would, in the demo's folder; its JSON result."""
    print(f"$ pvtok {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pvtok.cli.main", *arguments, "--json"],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _number(scores: dict[str, Any], key: str) -> str:
    value = scores[key]
    return f"- ({scores[f'{key}_reason']})" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
