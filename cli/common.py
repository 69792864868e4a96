"""What commands share: options, error exits, results on stdout, progress on stderr."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from pvtok.errors import MissingDependencyError, PvtokError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from pvtok.store import LatentStore
    from pvtok.tokenizer import Tokenizer
    from pvtok.video import ReadOptions

P = ParamSpec("P")

# Options every command takes.
Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notices.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")]

# Options of commands that run a model.
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Bundled name, checkpoint folder or .safetensors file. (default: the store's own, "
        "else tiny)",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
Fp32 = Annotated[
    bool,
    typer.Option("--fp32", help="Compute in fp32: the default on a CPU without native bf16."),
]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Compute in fp16.")]
Bf16 = Annotated[
    bool,
    typer.Option("--bf16", help="Compute in bf16: the default on a GPU and a CPU that has it."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="Run the model through torch.compile: slow to start, worth it for long work.",
    ),
]
Kernels = Annotated[
    str,
    typer.Option("--kernels", help="auto, triton or torch."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of random numbers, where any are drawn.")]

# Options of commands that read a video.
Size = Annotated[
    int | None,
    typer.Option("--size", help="Scale the shorter side to this many pixels."),
]
Crop = Annotated[bool, typer.Option("--crop", help="Cut out the centre square.")]
MaxFrames = Annotated[
    int | None,
    typer.Option("--max-frames", help="Read no more than this many."),
]
StartAt = Annotated[float, typer.Option("--start", help="Seconds to skip first.")]
Duration = Annotated[float | None, typer.Option("--duration", help="Seconds to read.")]
Fps = Annotated[
    str | None,
    typer.Option(
        "--fps",
        help="Resample to this rate, such as 24 or 30000/1001, by repeating and dropping frames.",
    ),
]
Matrix = Annotated[
    str | None,
    typer.Option("--color-matrix", help="Read colours as bt709 or bt601, whatever the file says."),
]
Tonemap = Annotated[
    bool,
    typer.Option("--tonemap", help="Map high dynamic range to BT.709."),
]
Deinterlace = Annotated[
    bool,
    typer.Option("--deinterlace", help="Turn woven fields into whole frames."),
]
AllowTruncated = Annotated[
    bool,
    typer.Option("--allow-truncated", help="Use what can be read of a damaged file."),
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]
Crf = Annotated[
    int,
    typer.Option("--crf", min=0, max=51, help="H.264/VP9 quality: lower is better and larger."),
]


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into one line on stderr and an exit code, and the docstring into help text."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        debug = bool(kwargs.get("debug"))
        try:
            function(*args, **kwargs)
        except PvtokError as error:
            _fail(str(error), error.exit_code, debug)
        except KeyboardInterrupt:
            _fail("interrupted", 130, debug)
        except BrokenPipeError:  # whoever read our stdout has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1, debug)
        except MemoryError:
            _fail("out of memory", 1, debug)

    # Help is wrapped to the terminal: a paragraph's own line breaks must not show.
    paragraphs = (function.__doc__ or "").split("\n\n")
    wrapped.__doc__ = "\n\n".join(" ".join(p.split()) for p in paragraphs)
    return wrapped


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"pvtok: error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


class Console:
    """Results to stdout, everything else to stderr."""

    def __init__(self, *, json: bool, quiet: bool, verbose: bool) -> None:
        self.json, self.quiet, self.verbose = json, quiet, verbose

    def result(self, values: dict[str, Any], text: str) -> None:
        """The command's result: `values` as one JSON line, or `text` for people."""
        print(json.dumps(values, allow_nan=False) if self.json else text)

    def say(self, text: str) -> None:
        """A notice: what was decided for the user."""
        if not self.quiet:
            print(f"pvtok: {text}", file=sys.stderr)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.say(text)

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show progress in frames; gives the function to call with each count of new frames."""
        if self.quiet:
            yield lambda count: None
        elif sys.stderr.isatty():
            yield from _bar(what, total)
        else:
            yield from _lines(what, total)


def progress_bar(unit: str, *more: ProgressColumn) -> Progress:
    """A bar on stderr that goes away when it is done: count, `unit`/s, time left, and `more`."""
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} {unit}/s")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        *more,
        console=RichConsole(stderr=True),
        transient=True,
    )


def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    with progress_bar("frames") as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, advance=count)


def _lines(what: str, total: int | None, every: float = 10.0) -> Iterator[Callable[[int], None]]:
    begun = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= every:
            said = now
            rate = done / (now - begun)
            left = f", {max(0, total - done) / rate:.0f} s left" if total else ""
            print(
                f"pvtok: {what}: {done}/{total or '?'} frames, {rate:.1f} frames/s{left}",
                file=sys.stderr,
                flush=True,
            )

    yield advance


def load_tokenizer(
    console: Console,
    model: str,
    device: str,
    *,
    fp32: bool,
    fp16: bool,
    bf16: bool,
    compile: bool,
    kernels: str,
) -> Tokenizer:
    """The tokenizer that the model options describe."""
    chosen = [name for name, on in (("fp32", fp32), ("fp16", fp16), ("bf16", bf16)) if on]
    if len(chosen) > 1:
        raise UsageError(f"--{' and --'.join(chosen)} exclude each other")
    if kernels not in ("auto", "triton", "torch"):
        raise UsageError(f"--kernels {kernels!r}", fix="Use auto, triton or torch.")
    from pvtok.tokenizer import Tokenizer

    tok = Tokenizer.load(
        model,
        device,
        chosen[0] if chosen else None,
        compile=compile,
        kernels=kernels,  # type: ignore[arg-type]
    )
    for notice in tok.notices:
        console.say(notice)
    console.detail(f"model {tok.name} ({tok.sha256[:12]}) on {tok.device} in {tok.dtype_name}")
    return tok


def read_options(
    *,
    size: int | None = None,
    crop: bool = False,
    start: float = 0.0,
    duration: float | None = None,
    max_frames: int | None = None,
    fps: str | None = None,
    color_matrix: str | None = None,
    tonemap: bool = False,
    deinterlace: bool = False,
    allow_truncated: bool = False,
) -> ReadOptions:
    """The reader options that the command line describes."""
    from fractions import Fraction

    from pvtok.video import ReadOptions

    try:
        rate = None if fps is None else Fraction(fps)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--fps {fps!r}", fix="Use a rate such as 24 or 30000/1001.") from error
    return ReadOptions(
        size=size,
        crop=crop,
        start=start,
        duration=duration,
        max_frames=max_frames,
        fps=rate,
        color_matrix=color_matrix,
        tonemap=tonemap,
        deinterlace=deinterlace,
        allow_truncated=allow_truncated,
    )


def is_store(path: Path) -> bool:
    """Whether a path is to be read as a latent store rather than a video."""
    return path.suffix == ".zarr" or (path / "zarr.json").is_file()


def store_model(store: LatentStore, model: str | None) -> str:
    """The model to read a store with: what was asked for, else the bundled one that made it."""
    if model is not None:
        return model
    from pvtok import checkpoint

    for name in checkpoint.bundled_models():
        if checkpoint.inspect(name).sha256 == store.model_sha256:
            return name
    raise MissingDependencyError(
        f"{store.path} was made by model {store.model_name!r} ({store.model_sha256[:12]}), which "
        "is not bundled",
        fix="Give its checkpoint with --model.",
    )


def megabytes(count: int | None) -> str:
    """Bytes for people."""
    return "?" if count is None else f"{count / 1e6:.2f} MB"


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape for people: 10x64x16x16."""
    return "x".join("?" if n is None else str(n) for n in shape)


def rate_text(fps: Any) -> str:
    """A frame rate for people."""
    return f"{float(fps):.6g}"
