"""The whole of a benchmark: build the contenders, check them, time them in turns, make rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pvtok.bench import files, machine
from pvtok.bench.contenders import BACKENDS, Contender, OurFamily, StepsCodec, our_contender
from pvtok.bench.flops import Flops
from pvtok.bench.gate import Verdict, check, stage_run
from pvtok.bench.machine import Machine
from pvtok.bench.profile import Share, breakdown
from pvtok.bench.rivals import PREFIX, DiffusersFamily
from pvtok.bench.timing import Counts, Times, interleave
from pvtok.bench.versions import environment
from pvtok.errors import UsageError
from pvtok.scenes import render_scene
from pvtok.tokenizer import Tokenizer, find_device

STAGES = ("encode", "decode", "both", "io")
PAPER = {"stage": "both", "batch": 4, "frames": 17, "height": 256, "width": 256}
PAPER_COUNTS = Counts(50, 100)
CPU_COUNTS = Counts(1, 100, seconds=30.0)
CPU_BATCH = 1
"""A CPU would take minutes for the paper's, and hours in fp16."""
SLOW_SECONDS = 20.0
"""A check that takes longer is said."""
IO_COUNTS = Counts(1, 5)

Say = Callable[[str], None]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    model: str
    device: torch.device
    dtype: torch.dtype
    backends: tuple[str, ...]
    """Of our model: the first is the one that the others are measured against."""
    rivals: tuple[str, ...]
    """Names of diffusers classes."""
    stages: tuple[str, ...]
    batch: int
    frames: int
    height: int
    width: int
    counts: Counts
    io_counts: Counts
    seed: int = 0
    video: Path | None = None
    io_frames: int = files.FRAMES


@dataclass
class Report:
    """What was measured."""

    rows: list[dict[str, Any]]
    profile: list[Share] | None

    @property
    def passed(self) -> bool:
        return all(row["check"].startswith("passed") for row in self.rows)


def make_plan(
    model: str = "tiny",
    device: str = "auto",
    dtype: str | None = None,
    *,
    backend: str = "auto",
    against: tuple[str, ...] = (),
    stages: tuple[str, ...] = ("both",),
    batch: int | None = None,
    frames: int | None = None,
    height: int = 256,
    width: int = 256,
    warm_up: int | None = None,
    timed: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    video: Path | None = None,
) -> Plan:
    """Check what is asked for and fill in what is not.

    Args:
        dtype: "fp32", "fp16" or "bf16"; None is what a tokenizer takes on this device.
        backend: the first contender's, one of `BACKENDS`.
        against: the others': of `BACKENDS`, or `diffusers:CLASS`.
        batch: None is the paper's 4, on a CPU 1.
        frames: 1 + 4n; None is 17, and `files.FRAMES` for the stage `io`.
        warm_up, timed: rounds; None is the paper's 50 and 100; on a CPU 1 and 100, for `io` 1 and
            5.
        seconds: stop timing after so long; None is no limit, but on a CPU where `timed` is None.

    Raises:
        UsageError: a value out of its range, or an unknown name.
        MissingDependencyError: the device is not there.
    """
    for name, value in (("batch", batch), ("frames", frames), ("size", min(height, width))):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is below 1")
    if frames is not None and (frames - 1) % 4 and set(stages) != {"io"}:
        raise UsageError(f"{frames} frames", why="whole clips have 1 + 4n", fix="Use 17, or 61.")
    if (warm_up or 0) < 0 or (timed is not None and timed < 1) or (seconds or 0.0) < 0:
        raise UsageError(f"warm-up {warm_up}, timed {timed}, seconds {seconds}")
    for stage in stages or ("",):
        if stage not in STAGES:
            raise UsageError(f"stage {stage!r}", fix=f"Use {', '.join(STAGES)}.")
    ours = tuple(name for name in against if not name.startswith(PREFIX))
    for name in (backend, *ours):
        if name not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise UsageError(f"rival {name!r}", fix=f"Use {known}, or diffusers:CLASS.")
    where = find_device(device)
    precision = Tokenizer.load("tiny", device, dtype).dtype
    usual = PAPER_COUNTS if where.type == "cuda" else CPU_COUNTS

    if batch is None:
        batch = 4 if where.type == "cuda" else CPU_BATCH

    def counts(usual: Counts) -> Counts:
        limit = usual.seconds if timed is None and seconds is None else seconds
        return Counts(
            usual.warm_up if warm_up is None else warm_up,
            usual.timed if timed is None else timed,
            limit,
        )

    return Plan(
        model,
        where,
        precision,
        (backend, *ours),
        tuple(name.removeprefix(PREFIX) for name in against if name.startswith(PREFIX)),
        stages,
        batch,
        frames or 17,
        height,
        width,
        counts(usual),
        counts(IO_COUNTS),
        seed,
        video,
        frames or files.FRAMES,
    )


@torch.inference_mode()
def run(plan: Plan, say: Say, progress: Progress, *, profile: bool = False) -> Report:
    """Measure all of a plan.

    Args:
        say: told what is being done.
        progress: told the frames each iteration has been through.
    """
    family = OurFamily(plan.model, plan.seed)
    tok = family.tokenizer(plan.device, plan.dtype)
    ours = [our_contender(tok, family, backend) for backend in plan.backends]
    rows: list[dict[str, Any]] = []
    shares = None
    flags = torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=False
    )
    with flags:
        say("measuring this device's matrix product and copy")
        before = machine.measure(plan.device, plan.dtype)
        clip_stages = [stage for stage in plan.stages if stage != "io"]
        if clip_stages:
            rivals = [DiffusersFamily(name, plan.seed) for name in plan.rivals]
            contenders = ours + [rival.contender(plan.device, plan.dtype) for rival in rivals]
        else:  # files are read and written by the first alone
            contenders = ours[:1]
        frames_BTHWC = clips(plan, plan.batch if clip_stages else 1).to(plan.device)
        verdicts, z = _check_all(contenders, frames_BTHWC, say)
        for stage in clip_stages:
            say(f"timing {stage}: {_counts_text(plan.counts)}")
            rows += _time(plan, stage, contenders, verdicts, frames_BTHWC, z, progress)
        if "io" in plan.stages:
            say(f"timing files: {_counts_text(plan.io_counts)}")
            rows += _time_files(plan, tok, contenders[0], verdicts[0], progress)
        if profile and verdicts[0].passed:
            say(f"profiling {contenders[0].family.name}, {contenders[0].backend}")
            stage = clip_stages[0] if clip_stages else "both"
            iteration = stage_run(contenders[0].codec, stage, frames_BTHWC, z[0])
            shares = breakdown(iteration, plan.device)
        peak = before.better(machine.measure(plan.device, plan.dtype, before.matmul_size))
    _add_rates(rows, peak)
    where = environment(plan.device)
    return Report([{**row, **where} for row in rows], shares)


def clips(plan: Plan, batch: int) -> Tensor:
    """Procedural scenes, a different one for each of the batch: uint8 `[B, T, H, W, 3]`."""
    each = [
        np.concatenate(list(render_scene(plan.seed + i, plan.frames, plan.height, plan.width)))
        for i in range(batch)
    ]
    return torch.from_numpy(np.stack(each))


def _check_all(
    contenders: list[Contender], frames_BTHWC: Tensor, say: Say
) -> tuple[list[Verdict], list[Tensor]]:
    """Each contender's verdict, and the latents it is to decode. One reference at a time."""
    verdicts: list[Verdict] = []
    latents: list[Tensor] = []
    reference, family = None, None
    for contender in contenders:
        if contender.family is not family:
            reference, family = None, contender.family
            say(f"computing the reference of {family.name}: plain PyTorch in fp32")
            try:
                reference = family.reference(frames_BTHWC, torch.float32)
            except torch.OutOfMemoryError:
                say(f"fp32 does not fit: the reference is in {_DTYPE_NAMES[contender.dtype]}")
                reference = family.reference(frames_BTHWC, contender.dtype)
            reference = dataclasses.replace(reference, z_BCTHW=reference.z_BCTHW.float())
        assert reference is not None
        say(f"checking {contender.family.name}, {contender.backend}")
        began = time.monotonic()
        try:
            verdict = check(contender.codec, contender.dtype, frames_BTHWC, reference)
        except RuntimeError as error:  # out of memory, a compiler that is not there, ...
            first = str(error).strip().splitlines() or [""]
            verdict = Verdict(False, f"failed: {type(error).__name__}: {first[0]}")
        if (took := time.monotonic() - began) > SLOW_SECONDS:
            say(f"that took {took:.0f} s; smaller clips (--size, --frames, --batch) take less")
        verdicts.append(verdict)
        latents.append(reference.z_BCTHW.to(contender.dtype))
    return verdicts, latents


def _time(
    plan: Plan,
    stage: str,
    contenders: list[Contender],
    verdicts: list[Verdict],
    frames_BTHWC: Tensor,
    latents: list[Tensor],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of one stage. Only those that passed their check run."""
    fit = [i for i, verdict in enumerate(verdicts) if verdict.passed]
    runs = [stage_run(contenders[i].codec, stage, frames_BTHWC, latents[i]) for i in fit]
    work = plan.batch * plan.frames
    times = interleave(runs, plan.device, plan.counts, lambda _: progress(work)) if runs else []
    measured = dict(zip(fit, times, strict=True))
    size = (plan.batch, plan.frames, plan.height, plan.width)
    rows = []
    for i, contender in enumerate(contenders):
        flops = contender.family.flops(*size)
        count = flops["encode"] + flops["decode"] if stage == "both" else flops[stage]
        row = _row(contender, plan, stage, size, count, verdicts[i].text, measured.get(i))
        row["protocol"] = protocol(row)
        rows.append(row)
    return rows


def _row(
    contender: Contender,
    plan: Plan,
    stage: str,
    size: tuple[int, int, int, int],
    flops: Flops,
    checked: str,
    times: Times | None,
) -> dict[str, Any]:
    batch, frames, height, width = size
    rate = None if times is None else 1e3 / times.median
    memory = None
    if times is not None and times.extra_bytes is not None:
        memory = times.extra_bytes + contender.parameter_bytes
    row: dict[str, Any] = {
        "name": contender.family.name,
        "stage": stage,
        "dtype": _DTYPE_NAMES[contender.dtype],
        "backend": contender.backend,
        "batch": batch,
        "frames": frames,
        "height": height,
        "width": width,
        "it_per_s": rate,
        "frames_per_s": None if rate is None else rate * batch * frames,
        "peak_memory_bytes": memory,
        **({} if times is None else times.percentiles()),
        "warm_up": plan.counts.warm_up,
        "timed": 0 if times is None else len(times.milliseconds),
        "flops": dataclasses.asdict(flops),
        "weights": contender.family.weights,
        "check": checked,
    }
    if memory is None:
        row["peak_memory_reason"] = (
            "not measured: the check failed"
            if times is None
            else "contenders share one process, where a CPU's memory cannot be told apart"
        )
    return row


def _time_files(
    plan: Plan, tok: Tokenizer, contender: Contender, verdict: Verdict, progress: Progress
) -> list[dict[str, Any]]:
    found: list[files.EndToEnd] = []
    if verdict.passed:
        tok.steps = cast(StepsCodec, contender.codec).steps
        found = files.end_to_end(
            tok,
            plan.video,
            plan.io_frames,
            plan.height,
            plan.width,
            plan.io_counts,
            lambda _: progress(plan.io_frames),
        )
    rows = []
    for i, direction in enumerate(("encode", "decode")):
        one = found[i] if found else None
        frames, height, width = one.size if one else (plan.io_frames, plan.height, plan.width)
        whole = (1, files.whole_groups(frames), height, width)
        flops = contender.family.flops(*whole)[direction]
        size = (1, frames, height, width)
        row = _row(contender, plan, "io", size, flops, verdict.text, one.files if one else None)
        rows.append(
            {
                **row,
                "direction": direction,
                "video": str(plan.video or files.SCENE),
                "warm_up": plan.io_counts.warm_up,
                "model_frames_per_s": one and frames * 1e3 / one.model.median,
                "share_of_model": one and one.share,
                "protocol": files.PROTOCOLS[direction],
            }
        )
    return rows


def _add_rates(rows: list[dict[str, Any]], peak: Machine) -> None:
    """What is derived: operations a second, as if nothing but the least were computed."""
    for row in rows:
        rate = row["it_per_s"]
        done = None if rate is None else rate * row["flops"]["least"]
        row["tflops"] = None if done is None else done / 1e12
        row["peak_share"] = None if done is None else done / peak.matmul_flops
        row["peak_tflops"] = peak.matmul_flops / 1e12
        row["peak_matmul_size"] = peak.matmul_size
        row["copy_bytes_per_s"] = peak.copy_bytes


def protocol(row: dict[str, Any]) -> str:
    """ "paper", or in what a row departs from it."""
    wanted = {**PAPER, "warm_up": PAPER_COUNTS.warm_up, "timed": PAPER_COUNTS.timed}
    changed = [f"{key} {row[key]}" for key, value in wanted.items() if row[key] != value]
    return "paper" if not changed else f"paper, but {', '.join(changed)}"


def _counts_text(counts: Counts) -> str:
    limit = "" if counts.seconds is None else f" within {counts.seconds:g} s, 5 at least"
    upto = "" if counts.seconds is None else "up to "
    return f"{counts.warm_up} warm-up and {upto}{counts.timed} timed rounds{limit}"


_DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
