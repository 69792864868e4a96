"""`pvtok doctor`: is everything that is needed there, and does it work?"""

from __future__ import annotations

from typing import Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command


@command
def doctor(
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Check ffmpeg, torch, the device, the model and known-bad versions; say how to mend faults.

    Exits with 4 if something that is needed is missing or does not work.

    Example:

      pvtok doctor --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.diagnosis import diagnose

    checks = diagnose()
    values: dict[str, Any] = {
        "ok": all(c.status != "fault" for c in checks),
        "checks": [vars(c) for c in checks],
    }
    marks = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
    lines = [
        f"{marks[c.status]}  {c.name:<14} {c.found}" + (f"\n{'':<22}{c.fix}" if c.fix else "")
        for c in checks
    ]
    console.result(values, "\n".join(lines))
    if not values["ok"]:
        raise typer.Exit(4)
