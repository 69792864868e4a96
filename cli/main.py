"""`pvtok`: the application and its way out."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from pvtok.cli import bench, decode, doctor, encode, evaluate, info, models, predict, train, verify

app = typer.Typer(
    name="pvtok",
    help="Turn video into compact predictive latents in Zarr stores, and back.",
    epilog="Example: pvtok encode video.mp4 -o latents.zarr && pvtok predict --context 8",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the time, and it pipes
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("predict")(predict.predict)
app.command("eval")(evaluate.evaluate)
app.command("info")(info.info)
app.command("train")(train.train)
app.command("verify")(verify.verify)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)


def _version(wanted: bool) -> None:
    if wanted:
        from pvtok import __version__

        typer.echo(f"pvtok {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_version),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Entry point of the `pvtok` command."""
    # A polite kill ends like Ctrl-C: what is done so far stays resumable.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
