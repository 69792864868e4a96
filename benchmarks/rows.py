"""Result rows: one JSON object a line, each with where and by what it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pvtok.bench.versions import environment

__all__ = ["RESULTS", "environment", "write"]

RESULTS = Path(__file__).parent / "results"


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Replace `results/NAME.jsonl`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
