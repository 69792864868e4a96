"""`pvtok models`: the models at hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command


@command
def models(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Describe this one: a name or a checkpoint."),
    ] = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """List the bundled models, or describe one. Weights are checked against their SHA-256.

    Examples:

      pvtok models

      pvtok models tiny --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    if model is not None:
        values = describe(model)
        console.result(values, "\n".join(f"{k:>16}  {v}" for k, v in values.items()))
        return
    from pvtok import checkpoint

    rows = [describe(name) for name in checkpoint.bundled_models()]
    lines = [
        f"{r['name']:<8} {r['parameters'] / 1e6:>6.1f} M parameters  {r['latent']}"
        f"  {common.megabytes(r['bytes'])}  sha256 {r['sha256'][:12]}"
        for r in rows
    ]
    console.result({"models": rows}, "\n".join(lines) or "no models are bundled")


def describe(model: str) -> dict[str, Any]:
    """Facts of one model, its bytes checked."""
    import torch

    from pvtok import checkpoint
    from pvtok.model import PVVAE

    found = checkpoint.inspect(model)
    with torch.device("meta"):
        net = PVVAE(found.config)
    config = found.config
    weights = found.folder / checkpoint.WEIGHTS_FILE
    return {
        "name": config.name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "latent": f"t{config.temporal_ratio}s{config.spatial_ratio}c{config.latent_channels}",
        "sha256": found.sha256,
        "bytes": weights.stat().st_size,
        "folder": str(found.folder),
        "padding": config.padding,
        "training_frames": config.training_frames,
        "normalized_reads": config.latent_mean is not None,
        "config": config.to_dict(),
    }
