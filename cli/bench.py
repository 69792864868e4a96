"""`pvtok bench`: how fast, on this machine, and beside what."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.errors import UsageError, WriteError

if TYPE_CHECKING:
    from pvtok.bench.profile import Share
    from pvtok.bench.run import Plan, Report


@command
def bench(
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help="encode, decode, both (one after the other, as one iteration) or io (from file to "
            "store and back). Several with commas between them.",
        ),
    ] = "both",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            help="Rivals in the same process, taking turns: torch, triton, compile, "
            "diffusers:AutoencoderKLWan (Wan2.2's configuration, random weights).",
        ),
    ] = "",
    size: Annotated[
        str, typer.Option("--size", help="Side of the square frames, or HEIGHTxWIDTH.")
    ] = "256",
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames", help="Frames of a clip, 1 + 4n. (default: 17; of --stage io: 241)"
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", help="Clips in an iteration. (default: 4; on a CPU 1)"),
    ] = None,
    warm_up: Annotated[
        int | None,
        typer.Option("--warm-up", help="Iterations before timing. (default: 50; on a CPU 1)"),
    ] = None,
    timed: Annotated[
        int | None,
        typer.Option("--timed", help="Timed iterations. (default: 100; see --seconds)"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="Stop timing after so long, but not before 5 iterations. (default: 30 on a CPU, "
            "unless --timed says how many)",
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Show where the first contender's time goes, by operation."),
    ] = False,
    video: Annotated[
        Path | None,
        typer.Option("--video", help="For --stage io. (default: a procedural clip)"),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Append the rows to this .jsonl file.")
    ] = None,
    dry_run: common.DryRun = False,
    model: common.Model = None,
    device: common.Device = "auto",
    fp32: common.Fp32 = False,
    fp16: common.Fp16 = False,
    bf16: common.Bf16 = False,
    compile: common.Compile = False,
    kernels: common.Kernels = "auto",
    seed: common.Seed = 0,
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Measure throughput, latency, memory and the share of this device's own peak.

    The protocol is the paper's: whole clips of 17x256x256, batch 4, 50 warm-up and 100 timed
    iterations; on a CPU fewer. Iterations are those of all contenders in turn. Nothing is timed
    whose output is not that of the plain definition; if one fails, the exit code is 1.

    Besides bundled models and checkpoints, --model takes the presets base and paper, which then
    have random weights.

    TFLOP/s count what a model needs at least (upsampling folded, taps on the empty past left out),
    whatever a backend computes. Memory is the most a contender takes, its weights included, and is
    measured on a GPU only.

    Examples:

      pvtok bench --fp16

      pvtok bench --model paper --bf16 --against torch,compile,diffusers:AutoencoderKLWan

      pvtok bench --stage encode,decode --batch 1 --size 720x1280 --frames 61 --profile

      pvtok bench --stage io --video video.mp4 --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    height, width = _size(size)
    chosen = [name for name, on in (("fp32", fp32), ("fp16", fp16), ("bf16", bf16)) if on]
    if len(chosen) > 1:
        raise UsageError(f"--{' and --'.join(chosen)} exclude each other")
    if kernels not in ("auto", "triton", "torch"):
        raise UsageError(f"--kernels {kernels!r}", fix="Use auto, triton or torch.")
    if compile and kernels == "triton":
        raise UsageError("--compile and --kernels triton exclude each other")
    if video is not None and "io" not in _names(stage):
        raise UsageError("--video is for --stage io")
    from pvtok.bench.run import make_plan, run

    plan = make_plan(
        model or "tiny",
        device,
        chosen[0] if chosen else None,
        backend="compile" if compile else kernels,
        against=_names(against),
        stages=_names(stage),
        batch=batch,
        frames=frames,
        height=height,
        width=width,
        warm_up=warm_up,
        timed=timed,
        seconds=seconds,
        seed=seed,
        video=video,
    )
    _say_plan(console, plan)
    if dry_run:
        values = _plan_values(plan)
        console.result(values, "\n".join(f"{key}: {value}" for key, value in values.items()))
        return
    with console.progress("benchmark", None) as advance:
        report = run(plan, console.say, advance, profile=profile)
    if save is not None:
        _append(save, report.rows)
    values = {"rows": report.rows}
    if profile:
        values["profile"] = [vars(share) for share in report.profile or []]
    console.result(values, "" if json else _text(report))
    if not report.passed:
        raise typer.Exit(1)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise UsageError(f"--size {text!r}", fix="Use 256, or 720x1280.") from None


def _say_plan(console: Console, plan: Plan) -> None:
    """What was decided for the user."""
    import torch

    from pvtok.bench.contenders import is_random
    from pvtok.bench.run import PAPER, PAPER_COUNTS
    from pvtok.kernels.products import widened

    if is_random(plan.model):
        console.say(f"{plan.model} has no weights: they are random, of seed {plan.seed}")
    if widened(torch.empty(0, dtype=plan.dtype, device=plan.device)):
        console.say(
            "fp16 has no fast path on this CPU: values are fp16 all the same, their products are "
            "taken in fp32"
        )
    if plan.counts.seconds is not None and plan.counts.timed == PAPER_COUNTS.timed:
        console.say(
            f"on a CPU: batch {plan.batch}, {plan.counts.warm_up} warm-up iterations and "
            f"{plan.counts.seconds:g} s of timed ones, not the paper's {PAPER['batch']}, "
            f"{PAPER_COUNTS.warm_up} and {PAPER_COUNTS.timed} (--batch, --warm-up, --timed, "
            "--seconds)"
        )


def _plan_values(plan: Plan) -> dict[str, Any]:
    from pvtok.bench.contenders import OurFamily

    clip = (plan.batch, plan.frames, plan.height, plan.width)
    flops = OurFamily(plan.model, plan.seed).flops(*clip)
    return {
        "model": plan.model,
        "device": str(plan.device),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "backends": list(plan.backends),
        "rivals": list(plan.rivals),
        "stages": list(plan.stages),
        "batch": plan.batch,
        "frames": plan.frames,
        "height": plan.height,
        "width": plan.width,
        "warm_up": plan.counts.warm_up,
        "timed": plan.counts.timed,
        "seconds": plan.counts.seconds,
        "flops": {direction: vars(count) for direction, count in flops.items()},
    }


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with path.open("a") as file:
            file.writelines(jsonlib.dumps(row, allow_nan=False) + "\n" for row in rows)
    except OSError as error:
        raise WriteError(f"cannot write {path}", why=str(error.strerror)) from error


def _text(report: Report) -> str:
    """Tables for people."""
    tables = [_clip_table([row for row in report.rows if row["stage"] != "io"])]
    tables.append(_file_table([row for row in report.rows if row["stage"] == "io"]))
    tables.append(_profile_table(report.profile))
    first = report.rows[0]
    copy = first["copy_bytes_per_s"] / 1e9
    notes = [f"{row['name']}, {row['backend']}: {row['check']}" for row in report.rows]
    notes.append(
        f"{first['device']}: {first['peak_tflops']:.3g} TFLOP/s in {first['dtype']} (product of "
        f"{first['peak_matmul_size']}-wide matrices), {copy:.3g} GB/s (copy)"
    )
    notes += sorted({f"{row['stage']}: {row['protocol']}" for row in report.rows})
    notes.append(f"torch {first['torch']}, pvtok {first['pvtok']}, commit {first['commit']}")
    return "\n".join([*(table for table in tables if table), *dict.fromkeys(notes)])


def _clip_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    size = "{batch} x {frames}x{height}x{width}"
    return _table(
        "model,backend,dtype,stage,clips,it/s,frames/s,p5 / p50 / p95 ms,memory,TFLOP/s,of peak",
        [
            [
                *(row[key] for key in ("name", "backend", "dtype", "stage")),
                size.format(**row),
                _number(row["it_per_s"]),
                _number(row["frames_per_s"]),
                " / ".join(_number(row.get(key)) for key in ("p5_ms", "p50_ms", "p95_ms")),
                "-"
                if row["peak_memory_bytes"] is None
                else f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
                _number(row["tflops"]),
                "-" if row["peak_share"] is None else f"{row['peak_share']:.0%}",
            ]
            for row in rows
        ],
    )


def _file_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    return _table(
        "model,backend,dtype,what,frames,frames/s,model alone,share",
        [
            [
                *(row[key] for key in ("name", "backend", "dtype", "protocol")),
                f"{row['frames']}x{row['height']}x{row['width']}",
                _number(row["frames_per_s"]),
                _number(row["model_frames_per_s"]),
                "-" if row["share_of_model"] is None else f"{row['share_of_model']:.0%}",
            ]
            for row in rows
        ],
    )


def _profile_table(shares: list[Share] | None) -> str:
    if not shares:
        return ""
    return _table(
        "kind,operation,ms,share,calls",
        [
            [share.kind, share.name, _number(share.milliseconds), f"{share.share:.1%}", share.calls]
            for share in shares
        ],
    )


def _table(headings: str, rows: list[list[Any]]) -> str:
    """A Rich table as plain text, as wide as it needs to be: it pipes."""
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings.split(",")):
        numeric = all(not str(row[i])[:1].isalpha() for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = RichConsole(width=500, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
