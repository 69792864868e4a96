"""Recorded rows become the tables of the documents."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", ROOT / "benchmarks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["benchmarks.md", "kernels.md"])
def test_the_documents_are_up_to_date(render: ModuleType, name: str) -> None:
    document = (ROOT / "docs" / name).read_text()
    assert render.rendered(document, ROOT / "benchmarks" / "results") == document


def test_marked_places_only_are_filled(render: ModuleType, tmp_path: Path) -> None:
    row = {
        "name": "encode, model alone",
        "model": "tiny",
        "dtype": "fp32",
        "height": 256,
        "width": 456,
        "value": 31.64,
        "lowest": 27.6,
        "highest": 135.8,
        "device": "a machine",
        "commit": "abc",
    }
    (tmp_path / "speed.jsonl").write_text(json.dumps(row) + "\n")
    text = "# Title\n\n<!-- begin speed -->\nold\n<!-- end speed -->\n\nrest\n"
    out = render.rendered(text, tmp_path)
    assert out.startswith("# Title\n")
    assert out.endswith("\nrest\n")
    assert "old" not in out
    assert "| 31.6 (27.6 to 136) |" in out
    assert render.rendered(out, tmp_path) == out
    none = render.rendered("<!-- begin bench -->\n<!-- end bench -->", tmp_path)
    assert "Nothing is recorded yet." in none
