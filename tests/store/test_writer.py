"""What a writer refuses, what it leaves behind, and how it replaces an older store."""

from __future__ import annotations

import os
import resource
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvtok.errors import (
    CorruptStoreError,
    ModelMismatchError,
    NonFiniteError,
    OutputExistsError,
    StoreError,
    TailError,
    UsageError,
    WriteError,
)
from pvtok.store import StoreWriter, files, open_store, verify_store

from .build import ROW, SMALL, make_latents, make_meta, tree, write


def begin(path: Path, **options: Any) -> StoreWriter:
    meta = options.pop("meta", None) or make_meta()
    return StoreWriter.create(path, meta, **{**SMALL, **options})


def leave_partial(path: Path, latents: int = 6, **options: Any) -> None:
    with begin(path, **options) as writer:
        writer.append(make_latents(latents))
        writer.checkpoint(b"state")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0, 3e38])
def test_values_beyond_float16_are_refused_and_named(tmp_path: Path, value: float) -> None:
    latents = make_latents(6).astype(np.float32)
    with begin(tmp_path / "a.zarr") as writer:
        writer.append(latents)
        bad = latents.copy()
        bad[3, 2, 1, 0] = value
        with pytest.raises(NonFiniteError, match=r"latent frame 9 holds .*\(2, 1, 0\)") as caught:
            writer.append(bad)
        assert ("float16" in str(caught.value)) == np.isfinite(value)
        assert writer.latents_done == 6
        writer.append(latents)  # nothing of the bad piece was kept
        writer.finish(frames=45)
    np.testing.assert_array_equal(
        open_store(tmp_path / "a.zarr").read(), np.concatenate([latents, latents])
    )


@pytest.mark.parametrize("shape", [ROW, (1, 3, 2, 3), (1, 1, 3, 2, 2), (2, 2, 3, 2)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with begin(tmp_path / "a.zarr") as writer, pytest.raises(UsageError, match="do not fit"):
        writer.append(np.zeros(shape, np.float32))


def test_integers_are_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr") as writer, pytest.raises(UsageError, match="int64"):
        writer.append(np.zeros((1, *ROW), np.int64))


@pytest.mark.parametrize("frames", [0, -3, 1, 17, 22, 10**9])
def test_frames_that_do_not_agree_are_refused(tmp_path: Path, frames: int) -> None:
    with begin(tmp_path / "a.zarr") as writer:
        writer.append(make_latents(6))
        with pytest.raises(StoreError, match=f"{frames} frames make .* 6 were appended"):
            writer.finish(frames=frames)
        writer.finish(frames=18)
    assert open_store(tmp_path / "a.zarr").frames == 18


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr") as writer, pytest.raises(StoreError, match="0 frames"):
        writer.finish(frames=0)


def test_tail_policy_error(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr", meta=make_meta(tail="error")) as writer:
        writer.append(make_latents(3))
        with pytest.raises(TailError):
            writer.finish(frames=8)


@pytest.mark.parametrize(
    "times", [[0.0, 1.0], [0, 1, 2, 3, np.nan], [0, 1, 2, 3, np.inf], [0, 1, 3, 2, 4], [[0]] * 5]
)
def test_bad_timestamps_are_refused(tmp_path: Path, times: list[Any]) -> None:
    with begin(tmp_path / "a.zarr") as writer:
        writer.append(make_latents(2))
        with pytest.raises(StoreError, match="timestamps"):
            writer.finish(frames=5, timestamps=times)


@pytest.mark.parametrize(
    "options",
    [{"codec": "lz4"}, {"chunk_latents": 0}, {"shard_bytes": 0}, {"chunk_latents": 2**40}],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        begin(tmp_path / "a.zarr", **options)
    assert names(tmp_path) == []


# Life of a writer


def test_leaving_without_finish_and_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr") as writer:
        writer.append(make_latents(30))
    assert names(tmp_path) == []
    with pytest.raises(StoreError, match="closed"):
        writer.append(make_latents(1))
    writer.abort()


def test_leaving_with_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    leave_partial(tmp_path / "a.zarr")
    assert names(tmp_path) == ["a.zarr.partial"]
    for path in ("a.zarr", "a.zarr.partial"):
        with pytest.raises(CorruptStoreError, match=r"a\.zarr is not finished.*--resume"):
            open_store(tmp_path / path)
    assert "unfinished" in verify_store(tmp_path / "a.zarr")[0].what


def test_finishing_leaves_the_store_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", make_latents(30))
    assert names(tmp_path) == ["a.zarr"]
    assert sorted(tree(tmp_path / "a.zarr")) == [
        "latents/c.0.0.0.0",
        "latents/c.1.0.0.0",
        "latents/c.2.0.0.0",
        "latents/zarr.json",
        "zarr.json",
    ]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr") as writer:
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(StoreError, match="being written by another process"):
                begin(tmp_path / "a.zarr", **options)
        writer.append(make_latents(2))
        writer.finish(frames=5)
    assert verify_store(tmp_path / "a.zarr") == []


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="Make the folder first"):
        begin(tmp_path / "none" / "a.zarr")


def test_the_root_is_no_name() -> None:
    with pytest.raises(UsageError, match="no name"):
        begin(Path("/"))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """The limit on file size makes the system refuse in the middle of a write."""
    latents = make_latents(4000)
    path = tmp_path / "a.zarr"
    options = {"chunk_latents": 256, "shard_bytes": 2**20}
    whole = write(tmp_path / "whole.zarr", latents, **options)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = begin(path, **options)
    writer.append(latents[:1000])
    writer.checkpoint(b"here")
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*a\.zarr"):
            writer.append(latents[1000:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for call in (lambda: writer.append(latents[:1]), lambda: writer.checkpoint(None)):
        with pytest.raises(StoreError, match="failed before"):
            call()
    writer.abort()
    with begin(path, resume=True, **options) as writer:
        assert (writer.latents_done, writer.state) == (1000, b"here")
        writer.append(latents[1000:])
        writer.finish(frames=15997)
    assert tree(path) == tree(whole)


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    meta = make_meta(channels=16, latent_mean=None, latent_std=None)
    piece = np.random.default_rng(0).standard_normal((64, 16, 2, 2)).astype(np.float32)

    def peak(pieces: int, name: str) -> int:
        tracemalloc.start()
        options = {"chunk_latents": 256, "shard_bytes": 2**18, "meta": meta}
        with begin(tmp_path / name, **options) as writer:
            for number in range(pieces):
                writer.append(piece)
                if number % 10 == 0:
                    writer.checkpoint(b"s" * 1000)
            writer.finish(frames=1 + 4 * (64 * pieces - 1))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(5, "warm.zarr")
    short, long = peak(10, "short.zarr"), peak(100, "long.zarr")
    assert long < short * 1.1 + 20_000


# Existing outputs


def test_existing_outputs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(2))
    before = tree(path)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        begin(path)
    assert tree(path) == before
    assert names(tmp_path) == ["a.zarr"]


def test_an_unfinished_output_is_refused(tmp_path: Path) -> None:
    leave_partial(tmp_path / "a.zarr")
    before = tree(tmp_path)
    with pytest.raises(OutputExistsError, match=r"--resume .*--overwrite"):
        begin(tmp_path / "a.zarr")
    assert tree(tmp_path) == before


def test_overwrite_keeps_the_old_store_until_the_new_one_is_whole(tmp_path: Path) -> None:
    old, new = make_latents(30, seed=1), make_latents(5, seed=2)
    path = write(tmp_path / "a.zarr", old)
    with begin(path, overwrite=True) as writer:
        writer.append(new)
        np.testing.assert_array_equal(open_store(path).read(), old)
        writer.finish(frames=17)
    np.testing.assert_array_equal(open_store(path).read(), new)
    assert verify_store(path) == []
    assert names(tmp_path) == ["a.zarr"]


def test_overwrite_drops_an_unfinished_store(tmp_path: Path) -> None:
    leave_partial(tmp_path / "a.zarr", latents=30)
    path = write(tmp_path / "a.zarr", make_latents(5), overwrite=True)
    assert tree(path) == tree(write(tmp_path / "b.zarr", make_latents(5)))


def test_a_failed_swap_puts_the_old_store_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_latents(30, seed=1)
    path = write(tmp_path / "a.zarr", old)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "store":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(WriteError, match="Input/output"):
        write(path, make_latents(5), overwrite=True)
    np.testing.assert_array_equal(open_store(path).read(), old)
    assert names(tmp_path) == ["a.zarr"]


def test_a_damaged_store_can_be_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(5))
    (path / "zarr.json").write_bytes(b"{")
    with pytest.raises(CorruptStoreError):
        begin(path, resume=True)
    write(path, make_latents(5), overwrite=True, resume=True)
    assert verify_store(path) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_store_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "videos"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "clip.mp4").write_text("mine")
    before = tree(tmp_path)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match="not a store and is not replaced"):
            begin(path, **options)
    assert tree(tmp_path) == before


def test_a_foreign_partial_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr.partial"
    folder.mkdir()
    (folder / "clip.mp4").write_text("mine")
    with pytest.raises(StoreError, match=r"holds clip\.mp4"):
        begin(tmp_path / "a.zarr", overwrite=True)
    assert (folder / "clip.mp4").read_text() == "mine"


# Resuming


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("done", [0, 1, 4, 6, 12, 13, 24, 30])
def test_a_resumed_store_is_the_same(tmp_path: Path, done: int, codec: str) -> None:
    latents = make_latents(30)
    whole = write(tmp_path / "whole.zarr", latents, codec=codec)
    path = tmp_path / "a.zarr"
    with begin(path, codec=codec) as writer:
        writer.append(latents[:done])
        writer.checkpoint(b"\x00state")
        writer.append(latents[done:])  # lost: after the checkpoint
    with begin(path, codec=codec, resume=True) as writer:
        assert (writer.latents_done, writer.state) == (done, b"\x00state")
        assert not writer.already_complete
        writer.append(latents[done:])
        writer.finish(frames=117)
    assert tree(path) == tree(whole)


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    """Even where the resumed run writes less, in the open shard and in later ones."""
    path = tmp_path / "a.zarr"
    with begin(path) as writer:
        writer.append(make_latents(5))
        writer.checkpoint(None)
        writer.append(make_latents(30))
    with begin(path, resume=True) as writer:
        writer.finish(frames=17)
    assert tree(path) == tree(write(tmp_path / "b.zarr", make_latents(5)))


def test_a_dropped_store_first_loses_its_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while clearing, it must not look as if it could be resumed."""
    leave_partial(tmp_path / "a.zarr")
    removed: list[str] = []
    remove = files.remove
    monkeypatch.setattr(files, "remove", lambda path: (removed.append(path.name), remove(path)))
    begin(tmp_path / "a.zarr", overwrite=True).abort()
    assert removed[0] == "progress.json"


def test_resume_without_anything_begins(tmp_path: Path) -> None:
    with begin(tmp_path / "a.zarr", resume=True) as writer:
        assert (writer.latents_done, writer.state) == (0, None)
        writer.append(make_latents(2))
        writer.finish(frames=5)
    assert verify_store(tmp_path / "a.zarr") == []


def test_resume_of_a_finished_store_has_nothing_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(2))
    with begin(path, resume=True, meta=make_meta(tool_version="9")) as writer:
        assert writer.already_complete
        assert writer.latents_done == 2
        with pytest.raises(StoreError, match="complete already"):
            writer.append(make_latents(1))
    assert names(tmp_path) == ["a.zarr"]


def test_resume_of_another_finished_store_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(2))
    with pytest.raises(OutputExistsError, match=r"compute_dtype was 'float32', now 'bfloat16'"):
        begin(path, resume=True, meta=make_meta(compute_dtype="bfloat16"))
    assert names(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model_sha256": "ef" * 32}, ModelMismatchError, r"model\.sha256 was 'abab.*now 'efef"),
        ({"source": {"fingerprint": "00"}}, StoreError, r"source\.fingerprint was 'cdcd"),
        ({"model_config": {"eps": 1e-5}}, StoreError, r"model\.config"),
        ({"tail": "drop"}, StoreError, r"tail was 'repeat_last', now 'drop'"),
        ({"tool_version": "0.2.0"}, StoreError, r"tool_version was '0.1.0', now '0.2.0'"),
    ],
)
def test_resuming_something_else_says_what_differs(
    tmp_path: Path, changes: dict[str, Any], error: type[StoreError], said: str
) -> None:
    leave_partial(tmp_path / "a.zarr")
    before = tree(tmp_path)
    with pytest.raises(error, match=said):
        begin(tmp_path / "a.zarr", resume=True, meta=make_meta(**changes))
    assert tree(tmp_path) == before


def test_resuming_with_another_layout_is_refused(tmp_path: Path) -> None:
    leave_partial(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"layout\.codec was 'none', now 'zstd'"):
        begin(tmp_path / "a.zarr", resume=True, codec="zstd")


def test_an_overwrite_can_be_resumed_without_saying_so_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(5, seed=1))
    latents = make_latents(13)
    leave_partial(path, overwrite=True, meta=make_meta(tail="drop"))
    assert open_store(path).frames == 17
    with begin(path, resume=True, meta=make_meta(tail="drop")) as writer:
        assert writer.latents_done == 6
        writer.append(latents[6:])
        writer.finish(frames=49)
    np.testing.assert_array_equal(open_store(path).read(), latents)


@pytest.mark.parametrize("name", ["progress.json", "checkpoint-1.bin"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    leave_partial(tmp_path / "a.zarr")
    file = tmp_path / "a.zarr.partial" / name
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(len(data) * 8, 50, replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(flipped)
        with pytest.raises(StoreError, match="damaged"):
            begin(tmp_path / "a.zarr", resume=True)
    file.write_bytes(data)
    begin(tmp_path / "a.zarr", resume=True).abort()


@pytest.mark.parametrize("action", ["remove", "truncate"])
@pytest.mark.parametrize("shard", [0, 1])
def test_a_damaged_shard_is_not_resumed(tmp_path: Path, shard: int, action: str) -> None:
    leave_partial(tmp_path / "a.zarr", latents=20)
    file = tmp_path / "a.zarr.partial" / "store" / "latents" / f"c.{shard}.0.0.0"
    if action == "remove":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CorruptStoreError, match="--overwrite"):
        begin(tmp_path / "a.zarr", resume=True)
