"""Reconstruction and prediction quality of models over a folder of clips.

    python benchmarks/quality.py CLIPS --model tiny --model RUN/model [--dtype bf16]

Protocol: short side scaled to 256, centre crop 256x256. Reconstruction of the first 32 frames,
posterior mean through float16 as a store keeps it; prediction of 8 frames from the first 9, by the
decoder alone and with the detail that `pvtok predict` carries over, beside repeating the last
frame. Computed in fp32 unless told otherwise. LTD is the distance of adjacent latent frames, see
`pvtok.training.validation`. Means over clips. Rows go to `results/quality.jsonl`, or
`results/NAME.jsonl` with `--rows NAME`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rows

from pvtok.detail import carry_detail
from pvtok.metrics import FrameMetrics, FrameMetricsResult
from pvtok.tokenizer import Tokenizer
from pvtok.training.validation import latent_temporal_distance
from pvtok.video import ReadOptions, read_frames

OPTIONS = ReadOptions(size=256, crop=True, max_frames=32)
CONTEXT, HORIZON = 9, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--rows", default="quality", help="name of the file in results/")
    args = parser.parse_args()
    files = sorted(args.clips.glob("*.mp4"))
    environment = rows.environment()
    results = []
    for model in args.model:
        tok = Tokenizer.load(model, device="cpu", dtype=args.dtype)
        folder = Path(model)  # of a run, its name says more than "model"
        name = folder.parent.name if folder.name == "model" else folder.name
        row = {"model": name, "dtype": args.dtype, "sha256": tok.sha256, **measure(tok, files)}
        print(row)
        results.append({**row, **environment})
    print(rows.write(args.rows, results))


def measure(tok: Tokenizer, files: list[Path]) -> dict[str, Any]:
    """Means over clips."""
    whole: list[FrameMetricsResult] = []
    guesses: dict[str, list[list[float]]] = {
        "predicted": [],
        "predicted_detail": [],
        "copy_last": [],
    }
    every_latent = []
    for file in files:
        frames = read_frames(file, OPTIONS)
        latents = tok.encode(frames).astype(np.float16)
        every_latent.append(latents)
        metrics = FrameMetrics()
        metrics.update(frames, tok.decode(latents)[: len(frames)])
        whole.append(metrics.result())
        truth = frames[CONTEXT : CONTEXT + HORIZON]
        context = frames[:CONTEXT]
        plain = tok.predict(context, HORIZON, detail=False)
        last = tok.decode(tok.encode(context))[CONTEXT - 1 : CONTEXT]
        guesses["predicted"].append(psnr(truth, plain))
        guesses["predicted_detail"].append(psnr(truth, carry_detail(plain, last, context[-1:])))
        guesses["copy_last"].append(psnr(truth, np.repeat(context[-1:], HORIZON, axis=0)))
    copied = np.mean(guesses["copy_last"], axis=1)
    values: dict[str, Any] = {
        "clips": len(files),
        "frames": len(files) * int(np.mean([w.frames for w in whole])),
        "psnr": mean([w.psnr for w in whole]),
        "psnr_of_mse": mean([w.psnr_of_mse for w in whole]),
        "ssim": mean([w.ssim for w in whole if w.ssim is not None], 4),
        "ms_ssim": mean([w.ms_ssim for w in whole if w.ms_ssim is not None], 4),
        "psnr_worst_clip": round(min(w.psnr for w in whole), 2),
        "ltd": round(latent_temporal_distance(every_latent) or 0.0, 4),
    }
    for name, rows_of in guesses.items():
        values[f"psnr_{name}"] = mean(rows_of)
        values[f"psnr_{name}_by_frame"] = np.mean(rows_of, axis=0).round(2).tolist()
        if name != "copy_last":
            values[f"clips_won_{name}"] = int((np.mean(rows_of, axis=1) > copied).sum())
    return values


def psnr(truth: np.ndarray[Any, Any], frames: np.ndarray[Any, Any]) -> list[float]:
    metrics = FrameMetrics(ssim=False, ms_ssim=False)
    metrics.update(truth, frames)
    return metrics.result().psnr_per_frame


def mean(values: Any, digits: int = 2) -> float:
    return round(float(np.mean(values)), digits)


if __name__ == "__main__":
    main()
