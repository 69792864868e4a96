from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pvtok.errors import MissingDependencyError
from pvtok.video import ffmpeg_version, find_ffmpeg, probe
from pvtok.video.binary import frame_by_frame


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVTOK_FFMPEG", raising=False)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_found_and_says_its_version() -> None:
    assert ffmpeg_version(find_ffmpeg())[0] in "nN0123456789"


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = find_ffmpeg()
    (tmp_path / "path").mkdir()
    on_path = script(tmp_path / "path" / "ffmpeg", "echo ffmpeg version 6.1")
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=":")
    assert find_ffmpeg() == str(on_path)
    monkeypatch.setenv("PVTOK_FFMPEG", bundled)
    assert find_ffmpeg() == bundled


def test_asked_for_but_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTOK_FFMPEG", str(tmp_path / "nowhere"))
    with pytest.raises(MissingDependencyError, match=r"\$PVTOK_FFMPEG.*nowhere"):
        find_ffmpeg()


def test_asked_for_but_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, text in enumerate(["exit 3", "echo hello"]):
        monkeypatch.setenv("PVTOK_FFMPEG", str(script(tmp_path / f"fake{k}", text)))
        with pytest.raises(MissingDependencyError, match=f"fake{k}"):
            probe(Path(__file__))


def test_none_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingDependencyError, match="imageio-ffmpeg"):
        find_ffmpeg()


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("4.4.2-0ubuntu0.22.04.1", "vsync"),
        ("5.0.1", "vsync"),
        ("n5.1.9", "fps_mode"),
        ("7.0.2-static", "fps_mode"),
        ("N-109530-g4a80db5fc2", "fps_mode"),
    ],
)
def test_option_of_each_age(tmp_path: Path, version: str, option: str) -> None:
    binary = script(tmp_path / "ffmpeg", f"echo ffmpeg version {version} Copyright")
    assert list(frame_by_frame(str(binary))) == [option]
