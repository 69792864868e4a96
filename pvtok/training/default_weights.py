"""Make the weights that ship as `tiny`.

    python -m pvtok.training.default_weights --data VIDEOS --work FOLDER --minutes 120

Start as the linear transform (`training/linear.py`), then three stages after the paper's: a plain
autoencoder (on short clips instead of images), predictive reconstruction, and a fine-tuning of the
decoder with the encoder frozen. The schedule runs on time spent training, so that one command fits
any machine; steps taken are printed and kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pvtok import checkpoint
from pvtok.configs import PRESETS, ModelConfig
from pvtok.groups import groups_covering
from pvtok.model import PVVAE
from pvtok.training.clips import RandomCrops, cache_clips
from pvtok.training.linear import PatchPCA, fit_patch_pca, start_linear
from pvtok.training.objective import ObjectiveConfig, draw_dropped_groups, predictive_loss


@dataclass(frozen=True)
class Stage:
    """One stage; `until` is the share of the time at which it ends."""

    until: float
    frames: int
    batch: int
    max_drop_ratio: float
    predictive_share: float = 1.0
    """Share of steps that draw a number of groups to drop; the others drop nothing."""
    train_encoder: bool = True


STAGES = (
    Stage(until=0.25, frames=9, batch=4, max_drop_ratio=0.0),
    # The paper drops up to all but the first group; half keeps more of a small budget for what is
    # seen.
    Stage(until=0.65, frames=17, batch=2, max_drop_ratio=0.5),
    # The paper drops nothing here; some prediction is kept so that `pvtok predict` stays good.
    Stage(
        until=1.0,
        frames=17,
        batch=2,
        max_drop_ratio=0.5,
        predictive_share=0.3,
        train_encoder=False,
    ),
)
HELD_OUT_EVERY = 25
"""One clip in so many is never trained on and watches progress."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of videos")
    parser.add_argument("--work", type=Path, required=True, help="cache, log and checkpoints")
    parser.add_argument("--minutes", type=float, required=True, help="training time in all")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--difference-weight", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    Run(args).train()


class Run:
    """One resumable training run in one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        files = cache_clips(args.data, args.work / "cache", short_side=256, max_frames=120)
        self.held_out = files[::HELD_OUT_EVERY]
        self.files = [f for i, f in enumerate(files) if i % HELD_OUT_EVERY]
        self.config = PRESETS["tiny"]
        self.objective = ObjectiveConfig(
            difference_weight=args.difference_weight, relative=True, kl_weight=1e-3
        )
        torch.manual_seed(args.seed)
        self.model = PVVAE(self.config)
        self._start()
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p], "scale": rate_scale(n, p)} for n, p in self.model.named_parameters()],
            lr=args.lr,
            betas=(0.9, 0.98),
            weight_decay=1e-3,
        )
        self.step, self.seconds = 0, 0.0
        self.resume_file = args.work / "resume.pt"
        if self.resume_file.exists():
            saved = torch.load(self.resume_file, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average, self.step, self.seconds = (
                saved["average"],
                saved["step"],
                saved["seconds"],
            )

    def _start(self) -> None:
        pca_file = self.args.work / "pca.pt"
        block = (
            self.config.temporal_ratio,
            self.config.spatial_ratio,
            self.config.spatial_ratio,
        )
        if not pca_file.exists():
            clips = (np.load(f) for f in self.files)
            pca = fit_patch_pca(clips, block, self.config.widths[-1], 2000, self.args.seed)
            torch.save(pca, pca_file)
        with torch.serialization.safe_globals([PatchPCA]):
            start_linear(self.model, torch.load(pca_file, weights_only=True))
        # The baseline to compare with: `--model WORK/linear`.
        checkpoint.save(self.model, self.args.work / "linear", dtype=torch.float16, overwrite=True)

    def train(self) -> None:
        args = self.args
        crops = {
            n: RandomCrops(self.files, n, args.size, args.seed + self.step)
            for n in {stage.frames for stage in STAGES}
        }
        generator = torch.Generator().manual_seed(args.seed + self.step)
        sums, since, saved = np.zeros(3), 0, time.monotonic()
        self.report()
        while self.seconds < 60 * args.minutes:
            begun = time.monotonic()
            progress = self.seconds / (60 * args.minutes)
            stage = next(s for s in STAGES if progress < s.until)
            self.model.encoder.requires_grad_(stage.train_encoder)
            groups = groups_covering(stage.frames)
            dropped = draw_dropped_groups(groups, stage.max_drop_ratio, generator)
            if torch.rand((), generator=generator) >= stage.predictive_share:
                dropped = 0
            batch = crops[stage.frames].batch(stage.batch)
            rate = learning_rate(progress, self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = args.lr * rate * group["scale"]
            with torch.autocast("cpu", torch.bfloat16):
                losses = predictive_loss(self.model, batch, dropped, self.objective, generator)
            losses.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            if not math.isfinite(float(norm)):
                raise SystemExit(f"step {self.step}: gradient norm {norm}; see {args.work}")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._average(min(0.999, (1 + self.step) / (10 + self.step)))
            self.step += 1
            self.seconds += time.monotonic() - begun
            sums += [float(v.detach()) for v in (losses.mse, losses.difference, losses.kl)]
            since += 1
            if time.monotonic() - saved > 300:
                print(f"step {self.step} {progress:.0%} losses {sums / since}", file=sys.stderr)
                self.report()
                self.save()
                sums, since, saved = np.zeros(3), 0, time.monotonic()
        self.finish()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        values = self.model.state_dict()
        torch._foreach_lerp_(
            list(self.average.values()), [values[k] for k in self.average], 1 - decay
        )

    def averaged(self, config: ModelConfig | None = None) -> PVVAE:
        model = PVVAE(config or self.config)
        model.load_state_dict(self.average)
        return model.prepare_inference()

    @torch.inference_mode()
    def report(self) -> None:
        """PSNR on held-out training clips: reconstruction of 33 frames; 8 frames from 9."""
        model = self.averaged()
        rows = []
        for file in self.held_out:
            x = centre(np.load(file)[:33])
            z = model.encode_step(x[:, :, :33])[0].mean
            y, _ = model.decode_step(z)
            padded = torch.cat([z[:, :, :3], model.padding_latents(z, 2)], dim=2)
            future, _ = model.decode_step(padded)
            truth = x[:, :, 9:17]
            rows.append(
                (
                    psnr(x, y[:, :, : x.shape[2]]),
                    psnr(truth, future[:, :, 9:17]),
                    psnr(truth, x[:, :, 8:9].expand_as(truth)),
                )
            )
        names = ("psnr", "predicted", "copy_last")
        row: dict[str, float] = {"step": self.step, "seconds": round(self.seconds)}
        row |= {n: round(float(v), 3) for n, v in zip(names, np.mean(rows, 0), strict=True)}
        print(json.dumps(row), file=sys.stderr)
        with (self.args.work / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def save(self) -> None:
        scratch = self.resume_file.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average,
                "step": self.step,
                "seconds": self.seconds,
            },
            scratch,
        )
        scratch.rename(self.resume_file)

    @torch.inference_mode()
    def finish(self) -> None:
        """Write the averaged weights in fp16, with the latents' statistics over training clips."""
        self.report()
        self.save()
        model = self.averaged()
        channels = self.config.latent_channels
        total, square = torch.zeros(channels).double(), torch.zeros(channels).double()
        count = 0
        for file in self.files:
            x = centre(np.load(file)[:33])
            z = model.encode_step(x)[0].mean.double()
            total += z.sum((0, 2, 3, 4))
            square += z.square().sum((0, 2, 3, 4))
            count += z[:, 0].numel()
        mean = total / count
        std = (square / count - mean.square()).sqrt()
        fields = self.config.to_dict() | {
            "latent_mean": [round(v, 5) for v in mean.tolist()],
            "latent_std": [round(v, 5) for v in std.tolist()],
        }
        saved = checkpoint.save(
            self.averaged(ModelConfig.from_dict(fields)),
            self.args.work / "tiny",
            dtype=torch.float16,
            overwrite=True,
        )
        print(f"{saved.folder} {saved.sha256} after {self.step} steps", file=sys.stderr)


def rate_scale(name: str, parameter: Tensor) -> float:
    """Share of the learning rate: Adam moves every weight alike, so that wide filters would move
    their output most; and the linear maps start at their optimum and hold small weights."""
    if ".linear." in name:
        return 0.05
    fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
    return min(1.0, 500 / fan_in)


def learning_rate(progress: float, step: int) -> float:
    """Linear warm-up over 200 steps, cosine to a twentieth."""
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / 200) * cosine


def centre(frames: np.ndarray, size: int = 256) -> Tensor:
    """Centre crop, `[1, 3, T, size, size]` in [-1, 1], T cut to whole groups."""
    T, H, W, _ = frames.shape
    T = 1 + (T - 1) // 4 * 4
    y, x = (H - size) // 2, (W - size) // 2
    crop = np.ascontiguousarray(frames[:T, y : y + size, x : x + size])
    return torch.from_numpy(crop).permute(3, 0, 1, 2).float()[None] / 127.5 - 1.0


def psnr(x: Tensor, y: Tensor) -> float:
    """Mean over frames of per-frame PSNR, dB, for values in [-1, 1]."""
    mse = (y.clamp(-1, 1) - x).square().mean((0, 1, 3, 4))
    return float((10 * torch.log10(4 / mse)).mean())


if __name__ == "__main__":
    main()
