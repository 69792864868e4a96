"""Finding files, and the ranges of what is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvtok.errors import UsageError
from pvtok.media import VIDEO_SUFFIXES, find_media
from pvtok.training.data import BatchShape, DataConfig, TrainingData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of which only the names count."""
    for name in ("b.mp4", "a.MKV", "deep/er/c.webm", "._b.mp4", "notes.md", "deep/d.mp4"):
        file = tmp_path / "clips" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "clips"


def found(*names: Path | str) -> list[str]:
    return [m.path.name for m in find_media([str(n) for n in names], VIDEO_SUFFIXES, "videos")]


def test_a_folder_is_searched_in_depth_and_in_order(folder: Path) -> None:
    assert found(folder) == ["a.MKV", "b.mp4", "d.mp4", "c.webm"]


def test_a_file_counts_once_under_all_its_names(folder: Path) -> None:
    assert found(folder / "b.mp4", folder / "deep/../b.mp4", folder)[:2] == ["b.mp4", "a.MKV"]
    assert found(folder / "b.mp4", folder).count("b.mp4") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "b.mp4\n\n deep/d.mp4 \n"),
        ("list.csv", "note,file,n\nx,b.mp4,1\ny,deep/d.mp4,2\n"),
        ("list.csv", "\ufeffpath\nb.mp4\ndeep/d.mp4\n"),
        ("list.jsonl", '{"path": "b.mp4"}\n{"video": "deep/d.mp4", "fps": 3}\n'),
    ],
)
def test_manifests_name_files_from_where_they_lie(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    assert found(folder / name) == ["b.mp4", "d.mp4"]


def test_a_split_is_obeyed(folder: Path) -> None:
    rows = "file,split\na.MKV,train\nb.mp4,val\ndeep/d.mp4,formats\ndeep/er/c.webm,\n"
    (folder / "list.csv").write_text(rows)
    # The folder names b.mp4 too, and yet it is held out.
    data = TrainingData(DataConfig(videos=(str(folder / "list.csv"), str(folder / "b.mp4"))), 0)
    assert [p.name for p in data.files] == ["a.MKV", "c.webm"]
    assert [p.name for p in data.held_out] == ["b.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "b.mp4\ngone.mp4\nlost.mp4\n", r"names 2 files that are not there.*gone\.mp4"),
        ("list.txt", "", "names no videos"),
        ("list.csv", "clip\nb.mp4\n", "entry 1 has no 'path'"),
        ("list.jsonl", '{"path": "b.mp4"}\n{"path": 3}\n', "entry 2 has no 'path'"),
        ("list.jsonl", '{"path": \n', "cannot use the manifest"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(
    folder: Path, name: str, text: str, message: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        found(folder / name)


def test_names_of_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*neither a file nor a folder"):
        found(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no videos in .*empty.*\.mkv .*\.mp4"):
        found(tmp_path / "empty")


def test_the_real_manifest(shared_video: Path) -> None:
    data = TrainingData(DataConfig(videos=(str(shared_video / "manifest.csv"),)), 0)
    assert {p.parent.name for p in data.files} == {"train"}
    assert {p.parent.name for p in data.held_out} == {"val"}
    assert len(data.files) > len(data.held_out) > 10


def test_every_nth_file_is_held_out(folder: Path) -> None:
    data = TrainingData(DataConfig(videos=(str(folder),), hold_out=3), 0)
    assert [p.name for p in data.held_out] == ["d.mp4"]
    assert [p.name for p in data.files] == ["a.MKV", "b.mp4", "c.webm"]
    assert TrainingData(DataConfig(videos=(str(folder),)), 0).held_out == ()
    (folder / "list.csv").write_text("file,split\nb.mp4,val\n")
    with pytest.raises(UsageError, match="none is left to train on"):
        TrainingData(DataConfig(videos=(str(folder / "list.csv"),)), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": ()}, "nothing to train on"),
        ({"videos": "clips"}, r"'clips' is not a list.*\['clips'\]"),
        ({"procedural": 1.5}, "procedural 1.5"),
        ({"procedural": float("nan")}, "procedural nan"),
        ({"short_side": 8}, "short_side 8"),
        ({"max_frames": 0}, "max_frames 0"),
        ({"hold_out": 1}, "hold_out 1 would leave nothing"),
        ({"hold_out": -1}, "hold_out -1"),
        ({"workers": -1}, "workers -1"),
    ],
)
def test_ranges_of_the_config(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(**{"videos": ("x",), **changes})


@pytest.mark.parametrize(
    ("shape", "message"),
    [((16, 64, 1), "frames 16 is not 1"), ((0, 64, 1), "frames 0"), ((1, 40, 1), "size 40"),
     ((1, 0, 1), "size 0"), ((5, 64, 0), "batch 0")],
)  # fmt: skip
def test_ranges_of_shapes(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BatchShape(*shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": []}, "no batch shape"),
        ({"source": "sounds"}, "unknown source 'sounds'"),
        ({"source": "images"}, "clips of 5 frames cannot be cut from images"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2"),
        ({"first_sample": -1}, "cannot go on from sample -1"),
    ],
)
def test_what_batches_refuses(folder: Path, changes: dict[str, Any], message: str) -> None:
    data = TrainingData(DataConfig(videos=(str(folder),)), 0)
    wanted: dict[str, Any] = {
        "shapes": [BatchShape(5, 16, 1)],
        "source": "videos",
        "steps": range(3),
        "first_sample": 0,
    }
    with pytest.raises(UsageError, match=message):
        data.batches(**{**wanted, **changes})


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    data = TrainingData(DataConfig(images=(str(tmp_path),)), 0)
    with pytest.raises(UsageError, match=r"no videos to train on.*data\.videos"):
        data.batches([BatchShape(5, 16, 1)], source="videos", steps=range(1), first_sample=0)
