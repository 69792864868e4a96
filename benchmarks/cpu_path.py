"""How much faster the model runs on a CPU than its plain form, in the same process.

    python benchmarks/cpu_path.py [--threads 2] [--rounds 7]

Protocol: steady steps of 16 frames of the bundled model, batch 1, from uint8 frames to latents and
back, random frames and the latents that the model makes of them. The plain form computes in fp32,
every operation by its definition (`PVVAE.plain_`): contiguous `[B, C, T, H, W]` tensors, unfolded
upsampling, all experts mixed. Beside it run the form that is used, in fp32 and bf16. Forms take
turns, a step each a round, and every round gives each form's ratio to the plain one, so that other
load on the machine meets all alike. Two rounds warm up. Medians over rounds. Rows go to
`results/cpu_path.jsonl`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import rows
import torch
import torch.nn.functional as F
from torch import Tensor

from pvtok.model import PVVAE, State
from pvtok.steps import Steps, TorchSteps
from pvtok.tokenizer import Tokenizer

FRAMES, WARM_UP = 16, 2
SIZES = ((256, 256), (456, 256))


class PlainSteps:
    """`TorchSteps` by definition: one operation after another, nothing in place."""

    backend = "plain"

    def __init__(self, net: PVVAE) -> None:
        self.net = net.plain_()

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        x = frames_BTHWC.permute(0, 4, 1, 2, 3).float().contiguous() / 127.5 - 1.0
        ps = self.net.config.spatial_ratio
        H, W = x.shape[3:]
        x = F.pad(x, (0, -W % ps, 0, -H % ps, 0, 0), mode="replicate")
        posterior, state = self.net.encode_step(x, state)
        return posterior.mean, state

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        x, state = self.net.decode_step(z_BCTHW.contiguous(), state)
        y = (x.permute(0, 2, 3, 4, 1) + 1.0) * 127.5
        return y.round().clamp(0, 255).to(torch.uint8), torch.isfinite(y).all(), state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizers = {d: Tokenizer.load("tiny", "cpu", d) for d in ("fp32", "bf16")}
    chosen = Tokenizer.load("tiny", "cpu").dtype_name
    forms: dict[str, Steps] = {
        "plain": PlainSteps(Tokenizer.load("tiny", "cpu", "fp32").net),
        **{d: TorchSteps(t.net) for d, t in tokenizers.items()},
    }
    results = []
    with torch.inference_mode():
        for height, width in SIZES:
            for stage, runs in steady(forms, height, width).items():
                for form, values in measured(runs, args.rounds).items():
                    row = {
                        "name": f"{stage}, {form}",
                        "height": height,
                        "width": width,
                        "frames": FRAMES,
                        **values,
                        "chosen": form == chosen,
                        **rows.environment(),
                    }
                    print(row, flush=True)
                    results.append(row)
    print(rows.write("cpu_path", results))


def steady(
    forms: dict[str, Steps], height: int, width: int
) -> dict[str, dict[str, Callable[[], object]]]:
    """One steady step of each form, for each direction, all on the same data."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1 + FRAMES, height, width, 3)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    encode: dict[str, Callable[[], object]] = {}
    decode: dict[str, Callable[[], object]] = {}
    for form, steps in forms.items():
        first, encoding = steps.encode(x[:, :1], None)
        z, _ = steps.encode(x[:, 1:], encoding)
        _, _, decoding = steps.decode(first, None)
        encode[form] = lambda s=steps, e=encoding: s.encode(x[:, 1:], e)  # type: ignore[misc]
        decode[form] = lambda s=steps, z=z, d=decoding: s.decode(z, d)  # type: ignore[misc]
    return {"encode": encode, "decode": decode}


def measured(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, Any]]:
    seconds: dict[str, list[float]] = {form: [] for form in runs}
    for i in range(WARM_UP + rounds):
        for form, run in runs.items():
            begun = time.perf_counter()
            run()
            if i >= WARM_UP:
                seconds[form].append(time.perf_counter() - begun)
    values = {}
    for form, times in seconds.items():
        ratios = [plain / own for plain, own in zip(seconds["plain"], times, strict=True)]
        values[form] = {
            "frames_per_s": round(FRAMES / statistics.median(times), 1),
            "times_plain": round(statistics.median(ratios), 2),
            "times_plain_lowest": round(min(ratios), 2),
            "times_plain_highest": round(max(ratios), 2),
            "rounds": rounds,
        }
    return values


if __name__ == "__main__":
    main()
