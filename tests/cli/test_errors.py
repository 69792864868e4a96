"""Bad input: one line, the right exit code, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Run


def one_line(done: Ran, code: int, *words: str) -> None:
    assert done.code == code, (done.code, done.err)
    lines = [line for line in done.err.splitlines() if "error" in line.lower()]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0], lines[0]


def test_existing_outputs_are_kept(run: Run, scene: Path, made_store: Path) -> None:
    Path("out.mp4").write_text("precious")
    Path("out.zarr").mkdir()
    Path("out.zarr/keep").write_text("precious")
    one_line(run("decode", made_store, "-o", "out.mp4"), 1, "out.mp4", "--overwrite")
    one_line(run("predict", made_store, "-o", "out.mp4"), 1, "out.mp4")
    assert run("encode", scene, "-o", "out.zarr").code == 1
    assert run("encode", scene, "-o", "out.zarr", "--overwrite").code == 1  # not a store
    assert Path("out.mp4").read_text() == "precious"
    assert Path("out.zarr/keep").read_text() == "precious"


def test_overwriting_a_store(run: Run, scene: Path) -> None:
    assert run("encode", scene, "-o", "a.zarr", "--max-frames", "5").code == 0
    one_line(run("encode", scene, "-o", "a.zarr"), 1, "a.zarr", "--overwrite")
    done = run("encode", scene, "-o", "a.zarr", "--overwrite", "--json")
    assert done.json["frames"] == 22
    assert sorted(p.name for p in Path().iterdir()) == ["a.zarr"]


def test_resuming_what_is_complete(run: Run, scene: Path) -> None:
    assert run("encode", scene, "-o", "a.zarr").code == 0
    again = run("encode", scene, "-o", "a.zarr", "--resume", "--json")
    assert again.code == 0
    assert again.json["new_frames"] == 0
    other = run("encode", scene, "-o", "a.zarr", "--resume", "--max-frames", "5")
    one_line(other, 1, "a.zarr")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "missing.mp4", "-o", "a.zarr"], 1, ["missing.mp4"]),
        (["encode", "SCENE", "-o", "a.mp4"], 2, [".zarr"]),
        (["encode", "SCENE", "-o", "no/such/folder/a.zarr"], 1, ["a.zarr"]),
        (["encode", "SCENE", "SCENE", "-o", "a.zarr"], 2, ["2 videos"]),
        (["encode", "SCENE", "-o", "a.zarr", "--fp16", "--bf16"], 2, ["--fp16 and --bf16"]),
        (["encode", "SCENE", "-o", "a.zarr", "--tail", "wrap"], 2, ["wrap"]),
        (["encode", "SCENE", "-o", "a.zarr", "--codec", "gzip"], 2, ["gzip"]),
        (["encode", "SCENE", "-o", "a.zarr", "--fps", "fast"], 2, ["fast"]),
        (["encode", "SCENE", "-o", "a.zarr", "--size", "0"], 2, ["0"]),
        (["encode", "SCENE", "-o", "a.zarr", "--crop"], 2, ["size"]),
        (["encode", "SCENE", "-o", "a.zarr", "--model", "huge"], 4, ["huge"]),
        (["encode", "SCENE", "-o", "a.zarr", "--kernels", "triton"], 4, ["triton"]),
        (["encode", "SCENE", "-o", "a.zarr", "--kernels", "mps"], 2, ["mps"]),
        (["encode", "SCENE", "-o", "a.zarr", "--start", "99"], 1, ["scene.mp4"]),
        (["encode", "*.none", "-o", "a.zarr"], 1, ["*.none"]),
        (["encode", "@none.txt", "-o", "a.zarr"], 1, ["none.txt"]),
        (["decode", "missing.zarr", "-o", "a.mp4"], 1, ["missing.zarr"]),
        (["decode", "STORE", "-o", "a.txt"], 2, [".txt"]),
        (["decode", "STORE", "-o", "a.mp4", "--frames", "5"], 2, ["'5'"]),
        (["decode", "STORE", "-o", "a.mp4", "--frames", "9:99"], 2, ["0:22"]),
        (["decode", "STORE", "-o", "a.mp4", "--frames", "9:9"], 2, ["9:9"]),
        (
            ["decode", "STORE", "-o", "a.mp4", "--frames", "2:9", "--audio-from", "SCENE"],
            2,
            ["2:9"],
        ),
        (["predict", "--context", "8"], 1, ["pvtok encode VIDEO -o latents.zarr"]),
        (["predict", "SCENE", "--context", "0"], 2, ["--context 0"]),
        (["predict", "STORE", "--context", "-3"], 2, ["-3"]),
        (["predict", "SCENE", "--context", "23"], 2, ["23", "22 frames"]),
        (["predict", "STORE", "--context", "23"], 2, ["23", "22 frames"]),
        (["predict", "SCENE", "--context", "9", "--at", "20"], 2, ["20", "22 frames"]),
        (["predict", "SCENE", "--at", "middle"], 2, ["middle"]),
        (["predict", "SCENE", "--frames", "0"], 2, ["--frames 0"]),
        (["predict", "STORE", "--size", "64"], 2, ["--size"]),
        (["eval", "SCENE", "missing.mp4"], 1, ["missing.mp4"]),
        (["info", "missing.zarr"], 1, ["missing.zarr"]),
        (["verify", "missing.zarr"], 1, ["missing.zarr"]),
        (["models", "huge"], 4, ["huge"]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and len(v) > 2 else "",
)
def test_one_line_and_nothing_left(
    run: Run,
    scene: Path,
    made_store: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    places = {"SCENE": str(scene), "STORE": str(made_store)}
    one_line(run(*(places.get(a, a) for a in arguments)), code, *words)
    assert list(tmp_path.iterdir()) == []


def test_unknown_options_are_usage_errors(run: Run) -> None:
    assert run("encode", "--frobnicate").code == 2
    assert run("transmogrify").code == 2
    assert run("encode", "video.mp4").code == 2  # no output


def test_videos_of_different_size_or_length(run: Run, scene: Path, made_store: Path) -> None:
    assert run("decode", made_store, "-o", "short.mp4", "--frames", "0:9").code == 0
    one_line(run("eval", scene, "short.mp4"), 2, "9 frames")
    one_line(run("eval", "short.mp4", scene), 2, "9 frames")
    one_line(run("eval", scene, made_store, "--size", "32"), 2, "70x50")


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50])
def test_files_that_are_no_videos(run: Run, tmp_path: Path, content: bytes) -> None:
    Path("bad.mp4").write_bytes(content)
    for command in ("encode", "predict", "info", "eval"):
        extra = ["-o", "a.zarr"] if command == "encode" else []
        done = run(command, "bad.mp4", *extra)
        assert done.code in (1, 5)
        one_line(done, done.code, "bad.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.mp4"]


def test_a_folder_that_cannot_be_written(run: Run, scene: Path, made_store: Path) -> None:
    Path("file").write_text("")
    assert run("encode", scene, "-o", "file/a.zarr").code == 1
    assert run("decode", made_store, "-o", "file/a.mp4").code == 1
    assert Path("file").read_text() == ""


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("info", "missing.mp4", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
