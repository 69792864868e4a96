"""`pvtok verify`: is a store whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.errors import CorruptStoreError


@command
def verify(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A latent store.")],
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Check every byte of a store: metadata, checksums of all chunks, completeness.

    Exits with 5 on any fault.

    Example:

      pvtok verify latents.zarr
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.store import verify_store

    faults = verify_store(store)
    values = {
        "store": str(store),
        "ok": not faults,
        "faults": [{"where": str(fault.where), "what": fault.what} for fault in faults],
    }
    lines = [f"{store}: {fault.where}: {fault.what}" for fault in faults]
    console.result(values, "\n".join(lines) or f"{store}: whole")
    if faults:
        raise CorruptStoreError(f"{store} has {len(faults)} faults")
