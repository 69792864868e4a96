"""`pvtok train`: train a model by a configuration."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command, progress_bar

if TYPE_CHECKING:
    from pvtok.training.config import TrainConfig
    from pvtok.training.data import TrainingData
    from pvtok.training.trainer import Outcome, Progress


@command
def train(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help="A .toml file, a bundled recipe's name, or the folder of a run to go on with.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="RUN", help="The run's folder. (default: runs/NAME)"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a key of the configuration, such as optimizer.lr=1e-4 or "
            "stages.video.max_drop_ratio=0.5; may be given many times.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    nproc: Annotated[
        int,
        typer.Option("--nproc", min=1, help="Processes on this machine: one for each GPU."),
    ] = 1,
    dry_run: common.DryRun = False,
    device: common.Device = "auto",
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Train a model: stages of steps on clips of videos, images or rendered scenes.

    All of a run lies in one folder: configuration, log, TensorBoard files, pictures, checkpoints,
    and the trained model, which every --model takes. An interrupted run goes on with --resume as if
    nothing had happened. On many machines start it with torchrun.

    Examples:

      pvtok train tiny --set data.videos=clips/ -o runs/first

      pvtok train config.toml --set stages.video.max_drop_ratio=0.5 --nproc 8

      pvtok train runs/first --resume

      pvtok train ablation --dry-run
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.training.config import CONFIG_FILE, load
    from pvtok.training.data import TrainingData

    found = load(config, overrides or ())
    is_run = (Path(config) / CONFIG_FILE).is_file()
    folder = output or (Path(config) if is_run else Path("runs") / found.name)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if nproc > 1 and launched > 1:
        from pvtok.errors import UsageError

        raise UsageError(
            f"--nproc {nproc} in a process that torchrun started", fix="Leave out --nproc."
        )
    if dry_run:
        data = TrainingData(found.data, found.seed)
        plan = describe(found, data, folder, max(nproc, launched))
        console.result(plan, _plan_text(found, plan))
        return
    if nproc > 1:
        _launch(found, folder, resume, nproc, device)
        return
    outcome = _train(console, found, folder, resume, device)
    if outcome is not None:
        console.result(_values(outcome), _text(outcome))


def _train(
    console: Console, config: TrainConfig, folder: Path, resume: bool, device: str
) -> Outcome | None:
    """Train in this process; None in all but the first of several."""
    from pvtok.training.distributed import world
    from pvtok.training.trainer import Trainer

    with world(device) as processes, _progress(console, config.steps) as show:
        trainer = Trainer(config, folder, processes, resume=resume, say=console.say, progress=show)
        with _stopping(trainer.stop):
            outcome = trainer.run()
        if not outcome.finished:
            if processes.first:
                console.say(f"stopped after step {outcome.steps}; go on with --resume")
            raise KeyboardInterrupt
        return outcome if processes.first else None


def _launch(config: TrainConfig, folder: Path, resume: bool, nproc: int, device: str) -> None:
    """Train in so many processes of this command."""
    from pvtok.training.data import TrainingData
    from pvtok.training.distributed import check_devices, launch
    from pvtok.training.run_folder import RunFolder

    # What is wrong is said once, here, and not by every process.
    TrainingData(config.data, config.seed)
    RunFolder(folder).check(config, resume=resume)
    check_devices(device, nproc)
    arguments = sys.argv[1:]
    at = next(i for i, a in enumerate(arguments) if a.split("=")[0] == "--nproc")
    del arguments[at : at + (1 if "=" in arguments[at] else 2)]
    code = launch([sys.executable, "-m", "pvtok.cli.main", *arguments], nproc)
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise typer.Exit(code)


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C and a polite kill end the run after its step; a second one ends it at once."""

    def first(number: int, frame: Any) -> None:
        stop()
        for sign in signs:
            signal.signal(sign, signal.default_int_handler)

    signs = (signal.SIGINT, signal.SIGTERM)
    old = [signal.signal(sign, first) for sign in signs]
    try:
        yield
    finally:
        for sign, handler in zip(signs, old, strict=True):
            signal.signal(sign, handler)


@contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[Progress], None]]:
    """A bar with the loss terms, on a terminal only."""
    if console.quiet or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield lambda progress: None
        return
    from rich.progress import TextColumn

    shown = ("loss", "mse", "difference", "lpips", "kl", "adversarial", "discriminator")
    with progress_bar("steps", TextColumn("{task.fields[terms]}")) as bar:
        task = bar.add_task("training", total=steps, terms="")

        def show(progress: Progress) -> None:
            terms = (f"{n} {progress.values[n]:.4g}" for n in shown if n in progress.values)
            bar.update(
                task,
                description=progress.stage,
                completed=progress.step,
                terms=" ".join(terms),
            )

        yield show


def describe(
    config: TrainConfig, data: TrainingData, folder: Path, processes: int
) -> dict[str, Any]:
    """The plan of a run: its whole configuration and what follows from it."""
    import torch

    from pvtok.model import PVVAE

    with torch.device("meta"):
        model = PVVAE(config.model)
    stages = []
    for stage in config.stages:
        # Each shape is as likely as the others.
        samples = stage.steps * processes * sum(s.batch for s in stage.shapes) / len(stage.shapes)
        stages.append({"name": stage.name, "steps": stage.steps, "samples": round(samples)})
    return {
        "output": str(folder),
        "steps": config.steps,
        "stages": stages,
        "processes": processes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "videos": len(data.files),
        "images": len(data.images),
        "held_out": len(data.held_out),
        "config": config.to_dict(),
        "dry_run": True,
    }


def _plan_text(config: TrainConfig, plan: dict[str, Any]) -> str:
    lines = [f"{key} = {value!r}" for key, value in config.flat().items()]
    lines.append("")
    for stage, counted in zip(config.stages, plan["stages"], strict=True):
        shapes = " or ".join(f"{s.batch} x {s.frames}x{s.size}x{s.size}" for s in stage.shapes)
        lines.append(
            f"stage {stage.name}: {stage.steps} steps of {shapes}, about {counted['samples']} "
            f"samples of {stage.source}, r = {stage.max_drop_ratio:g}, trains {stage.train}"
        )
    lines.append(
        f"{plan['parameters'] / 1e6:.2f} M parameters; {plan['videos']} videos and "
        f"{plan['images']} images to train on, {plan['held_out']} videos held out; "
        f"{plan['steps']} steps on {plan['processes']} processes -> {plan['output']}"
    )
    return "\n".join(lines)


def _values(outcome: Outcome) -> dict[str, Any]:
    validation = outcome.validation or {}
    return {
        "output": str(outcome.folder),
        "model": str(outcome.folder / "model"),
        "steps": outcome.steps,
        "new_steps": outcome.new_steps,
        "seconds": outcome.seconds,
        "psnr": validation.get("psnr"),
        "prediction_psnr": validation.get("prediction_psnr"),
        "copy_last_psnr": validation.get("copy_last_psnr"),
    }


def _text(outcome: Outcome) -> str:
    quality = f", PSNR {outcome.validation['psnr']:.2f} dB" if outcome.validation else ""
    return f"{outcome.folder / 'model'}: trained for {outcome.steps} steps{quality}"
