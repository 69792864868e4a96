"""Everything that needs a GPU, in one command of under nine minutes, or part by part.

    python benchmarks/gpu_suite.py [--parts check,plans,tiles,units,bench] [--out FOLDER]

check   every kernel against its reference in fp32, fp16 and bf16, and whole models against PyTorch
plans   streams cut in different ways give the same bits
tiles   candidates for every convolution of the presets, timed; the best go to kernels/tiles.json
units   one causal convolution with bias, norm and SiLU: our kernel against cuDNN and separate ops
bench   `pvtok bench` at the paper's size and at 720p against the rivals, with a profile

A part that fails a check says so and the exit status is 1; speeds of kernels that failed are not
taken. Results go to `benchmarks/results/*.jsonl` and `kernels/tiles.json`, or to FOLDER.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import torch.nn.functional as F
from launches import DTYPES, TILED, Call, calls
from torch import Tensor

from pvtok.bench import machine
from pvtok.bench.contenders import random_net
from pvtok.bench.run import make_plan, run
from pvtok.bench.timing import Counts, interleave
from pvtok.bench.versions import environment
from pvtok.kernels import tiles
from pvtok.kernels.available import obstacle
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_conv import conv
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.selftest import check_kernels
from pvtok.kernels.tiles import Tile
from pvtok.model.halo import HaloSteps
from pvtok.steps import TorchSteps
from pvtok.tokenizer import Tokenizer

PARTS = ("check", "plans", "tiles", "units", "bench")
RESULTS = Path(__file__).parent / "results"
CUDA = torch.device("cuda")
SHARED_BYTES = 227 * 1024
"""Of a block on compute capability 9.0; candidates beyond it are not tried."""
WORKERS = 12
"""Processes that compile candidates before one of them times them."""

Row = dict[str, Any]


def check(seconds: float) -> Iterator[Row]:
    """Kernels and whole models against their definitions."""
    for (name, dtype), channels in itertools.product(DTYPES.items(), (64, 96)):
        for found in check_kernels(CUDA, dtype, channels=channels):
            yield {"what": found.what, "dtype": name, "channels": channels, **_numbers(found)}
    frames = torch.randint(0, 256, (2, 17, 64, 80, 3), dtype=torch.uint8, device=CUDA)
    for preset, name in itertools.product(("tiny", "base"), ("fp32", "bf16")):
        net = _net(preset, DTYPES[name])
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            plain, ours = TorchSteps(net), HaloSteps(net)
            z, _ = plain.encode(frames, None)
            z_ours, _ = ours.encode(frames, None)
            error = float((z_ours - z).float().norm() / z.float().norm())
            x, _, _ = plain.decode(z, None)
            x_ours, finite, _ = ours.decode(z, None)
            worst = (x_ours.int() - x.int()).float().square().mean().sqrt() / 255
        limit = {"fp32": 1e-4, "bf16": 3e-2}[name]
        ok = error < limit and float(worst) < limit and bool(finite)
        row = {"latent_error": error, "frame_error": float(worst), "ok": ok}
        yield {"what": f"model {preset}", "dtype": name, **row}


def plans(seconds: float) -> Iterator[Row]:
    """The same bits for any way to cut a stream."""
    frames = torch.randint(0, 256, (1, 25, 64, 80, 3), dtype=torch.uint8, device=CUDA)
    for preset, name in itertools.product(("tiny", "base"), ("bf16", "fp16")):
        net = _net(preset, DTYPES[name])
        steps = HaloSteps(net)
        with torch.inference_mode():
            z, _ = steps.encode(frames, None)
            x, _, _ = steps.decode(z, None)
            for cuts in ((1, 5, 25), (9, 13, 25), (5, 21, 25)):
                parts, state, begin = [], None, 0
                for end in cuts:
                    part, state = steps.encode(frames[:, begin:end], state)
                    parts.append(part)
                    begin = end
                same_z = torch.equal(torch.cat(parts, 2), z)
                pixels, state, begin = [], None, 0
                for end in cuts:
                    a, b = (begin + 3) // 4, (end + 3) // 4
                    shown, _, state = steps.decode(z[:, :, a:b], state)
                    pixels.append(shown)
                    begin = end
                same_x = torch.equal(torch.cat(pixels, 1), x)
                row = {"what": f"{preset} {cuts}", "dtype": name}
                yield {**row, "latents": same_z, "frames": same_x, "ok": same_z and same_x}


def search(seconds: float) -> Iterator[Row]:
    """Time tiles for every convolution and norm, the most work first, until the time is over."""
    began = time.monotonic()
    gpu = tiles.gpu_of(torch.device("cuda", torch.cuda.current_device()))
    assert gpu is not None
    jobs: dict[str, tuple[Call, list[Tile]]] = {}
    for preset in ("paper", "tiny"):
        for call in calls(preset, torch.bfloat16, frames=(17,), batch=4):
            if call.op in TILED:
                problem = _problem(call)
                jobs.setdefault(problem.key(), (call, candidates(problem, gpu)))
    jobs = dict(sorted(jobs.items(), key=lambda job: -_work(job[1][0])))
    # Compiling takes most of the time and needs no GPU to itself: many processes fill Triton's
    # cache on small tensors, whose kernels are the same.
    tasks = [(call, tile) for call, choices in jobs.values() for tile in choices]
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map_async(_compile, tasks, chunksize=1).wait(seconds / 2)
        pool.terminate()
    best: dict[str, list[int]] = {}
    for key, (call, choices) in jobs.items():
        if time.monotonic() - began > seconds:
            print(f"no time left for {key}", flush=True)
            continue
        args = call.materialised(CUDA)
        launch = TILED[call.op].launch
        want = launch(*args, tile=choices[0])[0]
        timed: dict[Tile, float] = {}
        for tile in choices:
            once = functools.partial(launch, *args, tile=tile)
            try:
                same = torch.equal(once()[0], want)
                if same:
                    timed[tile] = _milliseconds(once)
            except Exception as error:  # does not fit on this chip
                print(f"{key} {tile}: {type(error).__name__}", flush=True)
                continue
            if not same:
                yield {"what": key, "tile": str(tile), "ok": False, "why": "other bits"}
        winner = min(timed, key=lambda tile: timed[tile])
        best[key] = list(dataclasses.astuple(winner))
        yield {
            "what": key,
            "tile": best[key],
            "ms": timed[winner],
            "rule_ms": timed.get(choices[0]),
            "tflops": _work(call) / timed[winner] / 1e9,
            "tried": len(timed),
            "ok": True,
        }
    table = json.loads(tiles.TABLE.read_text())
    table.setdefault(gpu.name, {}).update(best)
    _write_table(table)
    tiles.table.cache_clear()
    tiles.choose.cache_clear()


def candidates(problem: tiles.Problem, gpu: tiles.Gpu) -> list[Tile]:
    """The rule's tile, then others that fit."""
    first = tiles.rule(problem, gpu.capability)
    found = [first]
    if problem.op == "norm":
        sizes = [(m, w) for m in (4, 8, 16, 32) for w in (4, 8)]
        return found + [Tile(m, first.n, first.k, w, 1) for m, w in sizes]
    whole = tiles.power_of_two(problem.channels_out)
    widths = [whole] if problem.normed else [n for n in (64, 128, 256) if n <= whole] or [whole]
    deepest = tiles.dividing(problem.channels_in, 64)
    for m, n, k, warps in itertools.product(
        (64, 128, 256), widths, {deepest, max(16, deepest // 2)}, (4, 8)
    ):
        stages = min(4, SHARED_BYTES // (2 * k * (m + n)))
        sums = m * n // (32 * warps)  # registers of a thread
        if stages >= 2 and 32 <= sums <= 128:
            found.append(Tile(m, n, k, warps, stages))
    return list(dict.fromkeys(found))


@dataclasses.dataclass
class Unit:
    """A causal 3x3x3 convolution with bias, norm and SiLU, `C` channels in and out."""

    x_BTHWC: Tensor
    EPS = 1e-6

    def __post_init__(self) -> None:
        C = self.x_BTHWC.shape[-1]
        weight = torch.randn(C, C, 3, 3, 3, device=CUDA) / (27 * C) ** 0.5
        bias, self.gain = torch.randn(C, device=CUDA), torch.rand(C, device=CUDA) + 0.5
        self.laid = to_halo(self.x_BTHWC, None, 2)
        self.packed, self.padded_bias = pack_weight(weight.bfloat16()), pack_channels(bias)
        self.weight = weight.bfloat16().to(memory_format=torch.channels_last_3d)
        self.bias, self.low_gain = bias.bfloat16(), self.gain.bfloat16()
        self.padded = self.pad()

    def pad(self) -> Tensor:
        return F.pad(self.x_BTHWC, (0, 0, 0, 0, 0, 0, 2, 0)).permute(0, 4, 1, 2, 3)

    def library(self, padded: Tensor | None = None) -> Tensor:
        """cuDNN and separate operations, from an input that has its past already."""
        source = self.padded if padded is None else padded
        y = F.conv3d(source, self.weight, self.bias, padding=(0, 1, 1)).movedim(1, -1)
        return F.silu(F.rms_norm(y, self.low_gain.shape, self.low_gain, self.EPS))

    def library_padding(self) -> Tensor:
        """The same with the pad that comes before every causal convolution elsewhere."""
        return self.library(self.pad())

    def ours(self) -> Tensor:
        C = self.x_BTHWC.shape[-1]
        gain = self.gain if tiles.norm_fits(C) else None
        args = (self.laid, self.packed, self.padded_bias, None, gain, None, 2, 0, 3, 3, False)
        out: Tensor = conv(*args, 0, 0, False, self.EPS, C, False)[0]
        return out if gain is not None else norm(out, self.gain, None, 0, 0, 0, self.EPS, C)[0]


def units(seconds: float) -> Iterator[Row]:
    """Convolution, bias, norm and SiLU: our kernels against cuDNN at its best."""
    peak = machine.measure(CUDA, torch.bfloat16).matmul_flops
    for C, size in ((96, 256), (192, 128), (256, 128), (384, 64), (512, 64), (768, 32)):
        B, T = 4, 17
        unit = Unit(torch.randn(B, T, size, size, C, dtype=torch.bfloat16, device=CUDA))
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=True):
            want, got = unit.library(), interior(unit.ours(), 0)
            error = float((got.float() - want.float()).norm() / want.float().norm())
            runs = [unit.ours, unit.library, unit.library_padding]
            ours, library, padding = (t.median for t in interleave(runs, CUDA, Counts(5, 30)))
        flops = 2 * 27 * C * C * B * T * size * size
        yield {
            "what": f"conv unit {C} channels, {B}x{T}x{size}x{size}",
            "ms": ours,
            "cudnn_ms": library,
            "cudnn_padding_ms": padding,
            "speed_up": library / ours,
            "peak_share": flops / ours * 1e3 / peak,
            "peak_tflops": peak / 1e12,
            "error": error,
            "ok": error < 2e-2,
        }


def bench(seconds: float) -> Iterator[Row]:
    """The paper's protocol, 720p and the bundled model."""
    rivals = ("torch", "compile", "diffusers:AutoencoderKLWan")
    jobs: list[dict[str, Any]] = [
        {"model": "paper", "against": rivals, "stages": ("both", "encode", "decode")},
        {
            "model": "paper",
            "against": ("torch", "diffusers:AutoencoderKLWan"),
            "stages": ("decode",),
            "frames": 61,
            "height": 704,
            "width": 1280,
            "batch": 1,
            "warm_up": 1,
            "timed": 5,
        },
        {"model": "tiny", "against": ("torch", "compile"), "stages": ("encode", "decode")},
        {"model": "tiny", "stages": ("io",), "height": 720, "width": 1280},
    ]
    for i, job in enumerate(jobs):
        allowed = seconds / len(jobs) / 2
        plan = make_plan(
            **{"device": "cuda", "dtype": "bf16", "backend": "triton", "seconds": allowed, **job}
        )
        report = run(plan, lambda text: print(text, flush=True), lambda n: None, profile=i == 0)
        for row in report.rows:
            yield {**row, "what": row["name"], "ok": row["check"].startswith("passed")}
        for share in report.profile or []:
            print(share, flush=True)


def _problem(call: Call) -> tiles.Problem:
    """As `tiles.tile_for` would describe it."""
    noted: list[tiles.Problem] = []
    choose = tiles.choose

    def note(problem: tiles.Problem, gpu: tiles.Gpu | None) -> Tile:
        noted.append(problem)
        raise _NotedError

    tiles.choose = note  # type: ignore[assignment]
    try:
        TILED[call.op].launch(*call.args)
    except _NotedError:
        return noted[0]
    finally:
        tiles.choose = choose
    raise AssertionError(call.op)


class _NotedError(Exception):
    """Ends a launch that was only to say what it would do."""


def _compile(job: tuple[Call, Tile]) -> None:
    call, tile = job
    small = [
        torch.zeros(_small(a), dtype=a.dtype, device=CUDA) if isinstance(a, Tensor) else a
        for a in call.args
    ]
    try:
        TILED[call.op].launch(*small, tile=tile)
    except Exception as error:
        print(f"{call.op} {tile}: {type(error).__name__}", flush=True)


def _small(like: Tensor) -> tuple[int, ...]:
    """Few positions, the channels as they are: kernels are compiled for channels only."""
    frames_and_channels = (like.shape[1], 3, 3, like.shape[-1]) if like.ndim == 5 else ()
    return (1, *frames_and_channels) if like.ndim == 5 else tuple(like.shape)


def _work(call: Call) -> float:
    """Multiply-adds x 2 of a call, every tap counted."""
    if call.op == "norm":
        return float(call.args[0].numel())
    x, weight = call.args[0], call.args[1]
    B, frames, H1, W1, _ = x.shape
    positions = B * frames * H1 * W1 / (4 if call.op == "down" else 1)
    return 2.0 * positions * weight.numel()


def _milliseconds(go: Callable[[], object]) -> float:
    times = interleave([go], CUDA, Counts(2, 7))[0].milliseconds
    return statistics.median(times)


def _net(preset: str, dtype: torch.dtype) -> Any:
    if preset == "tiny":
        return Tokenizer.load("tiny", "cuda", dtype, kernels="torch").net
    return random_net(preset, 0).to(CUDA, dtype).prepare_inference()


def _numbers(found: Any) -> Row:
    return {"error": found.error, "ok": found.ok}


OUT: Path | None = None


def _write_table(table: dict[str, Any]) -> None:
    lines = ",\n".join(
        f" {json.dumps(gpu)}: {{\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(found.items()))
        + "\n }"
        for gpu, found in sorted(table.items())
    )
    text = f"{{\n{lines}\n}}\n"
    tiles.TABLE.write_text(text)
    if OUT is not None:
        (OUT / "tiles.json").write_text(text)


def main() -> None:
    global OUT
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", type=lambda t: t.split(","), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=500.0, help="for all parts together")
    parser.add_argument("--out", type=Path, help="write results there instead")
    args = parser.parse_args()
    found = torch.cuda.is_available()
    against = obstacle(CUDA, torch.bfloat16) if found else "no CUDA device"
    if against:
        sys.exit(f"gpu_suite: {against}")
    OUT = args.out
    shares = {"check": 0.2, "plans": 0.05, "tiles": 0.35, "units": 0.1, "bench": 0.3}
    functions = dict(zip(PARTS, (check, plans, search, units, bench), strict=True))
    total = sum(shares[part] for part in args.parts)
    failed = 0
    for part in args.parts:
        began = time.monotonic()
        rows = []
        for row in functions[part](args.seconds * shares[part] / total):
            rows.append({**row, **environment(CUDA)})
            failed += not row["ok"]
            print(part, row, flush=True)
        folder = OUT or RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("bench.jsonl" if part == "bench" else f"gpu-{part}.jsonl")
        with path.open("a" if part == "bench" else "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{part}: {len(rows)} rows in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
