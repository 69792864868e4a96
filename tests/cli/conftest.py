"""Running commands in-process, on short clips of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pvtok.cli.main import app
from pvtok.scenes import render_scene
from pvtok.video import VideoWriter


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return value


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pvtok` with arguments, in an empty folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # users do not set it

    def go(*arguments: str | Path | int) -> Ran:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return go


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short clip of an odd size and a fractional rate: 22 frames of 70x50."""
    path = tmp_path_factory.mktemp("scene") / "scene.mp4"
    with VideoWriter(path, 70, 50, Fraction(30000, 1001), crf=10) as writer:
        for chunk in render_scene(1, 22, 50, 70):
            writer.write(chunk)
    return path


@pytest.fixture(scope="session")
def made_store(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene encoded with the bundled model. Not to be changed."""
    path = tmp_path_factory.mktemp("store") / "latents.zarr"
    result = CliRunner().invoke(app, ["encode", str(scene), "-o", str(path)])
    assert result.exit_code == 0, result.stderr
    return path
