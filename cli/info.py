"""`pvtok info`: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command


@command
def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A video, a latent store or a checkpoint.")
    ],
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Describe a video, a latent store or a model checkpoint.

    Examples:

      pvtok info video.mp4

      pvtok info latents.zarr --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    if common.is_store(path):
        values = _store(path)
    elif path.suffix == ".safetensors" or (path / "model.safetensors").is_file():
        from pvtok.cli.models import describe

        values = {"kind": "model", **describe(str(path))}
    else:
        values = _video(path)
    console.result(values, "\n".join(f"{k:>16}  {_shown(v)}" for k, v in values.items()))


def _store(path: Path) -> dict[str, Any]:
    from pvtok.store import open_store, store_info

    return store_info(open_store(path))


def _video(path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from pvtok.video import probe

    found = probe(path)
    values = asdict(found)
    del values["path"], values["kind"]
    return {
        "kind": found.kind,
        **values,
        "fps": float(found.fps),
        "fps_ratio": [found.fps.numerator, found.fps.denominator],
        "sample_aspect": str(found.sample_aspect),
    }


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
