"""Reconstruction and prediction quality of models over a folder of clips.

    python benchmarks/quality.py CLIPS --model tiny --model WORK/linear

Protocol: short side scaled to 256, centre crop 256x256. Reconstruction of the first 32 frames,
fp32, posterior mean through float16 as a store keeps it; prediction of 8 frames from the first 9.
Means over clips. Rows go to `results/quality.jsonl`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rows

from pvtok.metrics import FrameMetrics, FrameMetricsResult
from pvtok.tokenizer import Tokenizer
from pvtok.video import ReadOptions, read_frames

OPTIONS = ReadOptions(size=256, crop=True, max_frames=32)
CONTEXT, HORIZON = 9, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model", action="append", required=True)
    args = parser.parse_args()
    files = sorted(args.clips.glob("*.mp4"))
    environment = rows.environment()
    results = []
    for model in args.model:
        tok = Tokenizer.load(model, device="cpu", dtype="fp32")
        row = {"model": Path(model).name, "sha256": tok.sha256, **measure(tok, files)}
        print(row)
        results.append({**row, **environment})
    print(rows.write("quality", results))


def measure(tok: Tokenizer, files: list[Path]) -> dict[str, Any]:
    """Means over clips."""
    whole: list[FrameMetricsResult] = []
    predicted: list[list[float]] = []
    copied: list[list[float]] = []
    for file in files:
        frames = read_frames(file, OPTIONS)
        latents = tok.encode(frames).astype(np.float16)
        metrics = FrameMetrics()
        metrics.update(frames, tok.decode(latents)[: len(frames)])
        whole.append(metrics.result())
        truth = frames[CONTEXT : CONTEXT + HORIZON]
        context = frames[:CONTEXT]
        predicted.append(psnr(truth, tok.predict(context, HORIZON)))
        copied.append(psnr(truth, np.repeat(context[-1:], HORIZON, axis=0)))
    return {
        "clips": len(files),
        "frames": len(files) * int(np.mean([w.frames for w in whole])),
        "psnr": mean([w.psnr for w in whole]),
        "psnr_of_mse": mean([w.psnr_of_mse for w in whole]),
        "ssim": mean([w.ssim for w in whole if w.ssim is not None], 4),
        "ms_ssim": mean([w.ms_ssim for w in whole if w.ms_ssim is not None], 4),
        "psnr_worst_clip": round(min(w.psnr for w in whole), 2),
        "psnr_predicted": mean(predicted),
        "psnr_copy_last": mean(copied),
        "psnr_predicted_by_frame": np.mean(predicted, axis=0).round(2).tolist(),
        "psnr_copy_last_by_frame": np.mean(copied, axis=0).round(2).tolist(),
        "clips_won_against_copy_last": int(
            sum(np.mean(p) > np.mean(c) for p, c in zip(predicted, copied, strict=True))
        ),
    }


def psnr(truth: np.ndarray[Any, Any], frames: np.ndarray[Any, Any]) -> list[float]:
    metrics = FrameMetrics(ssim=False, ms_ssim=False)
    metrics.update(truth, frames)
    return metrics.result().psnr_per_frame


def mean(values: Any, digits: int = 2) -> float:
    return round(float(np.mean(values)), digits)


if __name__ == "__main__":
    main()
