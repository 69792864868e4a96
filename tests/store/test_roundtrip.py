"""What is written is read back exactly, by this package and by others."""

from __future__ import annotations

import json
import pickle
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtok.errors import OutputExistsError, StoreError, UsageError
from pvtok.store import LatentArray, open_store, store_info, verify_store

from .build import CHUNK, SHARD, frames_of, make_latents, make_meta, tree, write

LENGTHS = [1, 2, CHUNK, CHUNK + 1, SHARD - 1, SHARD, SHARD + 1, 2 * SHARD, 2 * SHARD + 7]


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("length", LENGTHS)
def test_all_readers_agree(tmp_path: Path, length: int, codec: str) -> None:
    latents = make_latents(length)
    times = np.cumsum(np.full(frames_of(length), 0.04))
    path = write(tmp_path / "a.zarr", latents, codec=codec, timestamps=times)

    store = open_store(path)
    np.testing.assert_array_equal(store.read(), latents)
    np.testing.assert_array_equal(store.timestamps, times)
    assert verify_store(path) == []

    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["latents"][:], latents)
    np.testing.assert_array_equal(group["timestamps"][:], times)
    assert group.attrs["pvtok"]["format_version"] == 1
    assert group.attrs["pvtok"]["frames"] == frames_of(length)

    with xarray.open_zarr(path) as dataset:
        assert dataset["latents"].dims == ("frame", "channel", "y", "x")
        assert dataset["latents"].dtype == np.float16
        np.testing.assert_array_equal(dataset["latents"].values, latents)
        np.testing.assert_array_equal(dataset["timestamps"].values, times)
        assert dataset.attrs["pvtok"]["model"]["name"] == "tiny"


def test_zarr_reads_unconsolidated_arrays_and_windows(tmp_path: Path) -> None:
    latents = make_latents(30)
    path = write(tmp_path / "a.zarr", latents)
    array = zarr.open_array(path / "latents", mode="r")
    assert array.chunks == (CHUNK, 3, 2, 2)
    assert array.shards == (SHARD, 3, 2, 2)
    assert np.isnan(array.fill_value)
    np.testing.assert_array_equal(array[9:27], latents[9:27])


def test_zarr_rejects_a_flipped_bit_as_well(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(5))
    shard = path / "latents" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(path / "latents", mode="r")[:]


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(1, 40),
    plan=st.lists(st.integers(0, 15), max_size=8),
    codec=st.sampled_from(["none", "zstd"]),
    data=st.data(),
)
def test_any_append_plan_gives_the_same_bytes(
    length: int, plan: list[int], codec: str, data: st.DataObject
) -> None:
    latents = make_latents(length)
    with tempfile.TemporaryDirectory() as folder:
        whole = write(Path(folder) / "whole.zarr", latents, codec=codec)
        pieces = write(Path(folder) / "pieces.zarr", latents, plan=plan, codec=codec)
        assert tree(whole) == tree(pieces)
        store = open_store(pieces)
        for _ in range(5):
            a = data.draw(st.integers(0, length))
            b = data.draw(st.integers(a, length))
            np.testing.assert_array_equal(store.read(a, b), latents[a:b])
            np.testing.assert_array_equal(store.latents[a:b], latents[a:b])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_any_float_dtype_and_stride(tmp_path: Path, dtype: str) -> None:
    latents = make_latents(30).astype(dtype)
    path = write(tmp_path / "a.zarr", latents[::-2])
    np.testing.assert_array_equal(open_store(path).read(), latents[::-2])


def test_normalized(tmp_path: Path) -> None:
    latents = make_latents(20)
    store = open_store(write(tmp_path / "a.zarr", latents))
    mean = np.array([0.5, -1.0, 1e-05], np.float32)[:, None, None]
    std = np.array([2.0, 0.25, 1.5], np.float32)[:, None, None]
    got = store.read(3, 17, normalized=True)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, (latents[3:17].astype(np.float32) - mean) / std)


def test_normalized_needs_statistics(tmp_path: Path) -> None:
    meta = make_meta(latent_mean=None, latent_std=None)
    store = open_store(write(tmp_path / "a.zarr", make_latents(2), meta=meta))
    assert store.mean is None
    with pytest.raises(StoreError, match="cannot be normalized"):
        store.read(normalized=True)


@pytest.mark.parametrize(("a", "b"), [(-1, 3), (4, 3), (0, 6), (6, 6)])
def test_windows_outside_show_their_values(tmp_path: Path, a: int, b: int) -> None:
    store = open_store(write(tmp_path / "a.zarr", make_latents(5)))
    with pytest.raises(StoreError, match=f"latents {a}:{b} are not within 0:5"):
        store.read(a, b)


def test_latents_slice_like_an_array(tmp_path: Path) -> None:
    latents = make_latents(30)
    array = open_store(write(tmp_path / "a.zarr", latents)).latents
    assert isinstance(array, LatentArray)
    assert (len(array), array.shape, array.dtype) == (30, (30, 3, 2, 2), np.float16)
    for key in (slice(None), slice(-5, None), slice(20, 99), slice(9, 3), slice(2, 2), 0, -1, 29):
        np.testing.assert_array_equal(array[key], latents[key])
    np.testing.assert_array_equal(np.asarray(array), latents)
    np.testing.assert_array_equal(np.asarray(array, np.float32), latents.astype(np.float32))
    assert len(list(array)) == 30
    for index in (30, -31):
        with pytest.raises(IndexError, match=f"latent frame {index} of 30"):
            array[index]
    with pytest.raises(UsageError, match="steps of 2"):
        array[::2]


def test_a_store_survives_pickling(tmp_path: Path) -> None:
    latents = make_latents(5)
    store = open_store(write(tmp_path / "a.zarr", latents))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(1, 4), latents[1:4])


def test_meta_comes_back(tmp_path: Path) -> None:
    meta = make_meta(segment=9, extra={"note": [1, None, "x"]}, model_config={"a": 1})
    store = open_store(write(tmp_path / "a.zarr", make_latents(3), meta=meta))
    assert store.meta == meta
    assert (store.frames, store.fps, store.size) == (9, Fraction(30000, 1001), (30, 31))
    assert store.model_name == "tiny"
    assert store.model_sha256 == "ab" * 32
    assert store.timestamps is None


def test_info_is_json_and_counts_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(30))
    info = json.loads(json.dumps(store_info(open_store(path))))
    assert info["kind"] == "video"
    assert info["complete"] is True
    assert (info["frames"], info["width"], info["height"]) == (117, 30, 31)
    assert info["latent_shape"] == [30, 3, 2, 2]
    assert (info["dtype"], info["model"]) == ("float16", "tiny")
    assert info["fps"] == pytest.approx(29.97, abs=0.01)
    assert info["bytes"] == sum(len(data) for data in tree(path).values())
    assert (info["chunk_shape"][0], info["shard_shape"][0], info["shards"]) == (CHUNK, SHARD, 3)


@pytest.mark.parametrize(
    ("tail", "frames", "segment", "latents", "kept"),
    [
        ("repeat_last", 7, None, 3, 7),
        ("drop", 7, None, 2, 5),
        ("drop", 5, None, 2, 5),
        ("error", 9, None, 3, 9),
        ("repeat_last", 12, 5, 6, 12),
        ("drop", 13, 5, 5, 11),
        ("drop", 10, 5, 4, 10),
        ("error", 6, 5, 3, 6),
        ("repeat_last", 3, 1, 3, 3),
    ],
)
def test_frames_agree_with_latents(
    tmp_path: Path, tail: str, frames: int, segment: int | None, latents: int, kept: int
) -> None:
    path = tmp_path / "a.zarr"
    meta = make_meta(tail=tail, segment=segment)
    times = list(range(frames))
    write(path, make_latents(latents), meta=meta, frames=frames, timestamps=times)
    store = open_store(path)
    assert (store.frames, store.dropped_frames) == (kept, frames - kept)
    assert store.timestamps is not None
    assert store.timestamps.tolist() == times[:kept]
    assert verify_store(path) == []


def test_default_layout(tmp_path: Path) -> None:
    """About 1 MiB per chunk, whole segments, and short videos are not padded."""
    sizes = {"channels": 64, "latent_height": 16, "latent_width": 16}
    plain = {"width": 256, "height": 256, "crop": (0, 0, 0, 0)}
    meta = make_meta(**sizes, **plain, latent_mean=None, latent_std=None)
    latents = np.zeros((40, 64, 16, 16), np.float16)
    options = {"chunk_latents": None, "shard_bytes": 2**26, "meta": meta}
    layout = open_store(write(tmp_path / "a.zarr", latents, **options)).layout
    assert (layout.chunk_latents, layout.chunks_per_shard) == (32, 2)
    layout = open_store(write(tmp_path / "b.zarr", latents[:5], **options)).layout
    assert (layout.chunk_latents, layout.chunks_per_shard) == (5, 1)
    segmented = make_meta(**sizes, **plain, latent_mean=None, latent_std=None, segment=17)
    options["meta"] = segmented
    layout = open_store(write(tmp_path / "c.zarr", latents, frames=17 * 8, **options)).layout
    assert layout.chunk_latents == 30


def test_a_relative_path_and_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.zarr"), make_latents(2))
    Path("link.zarr").symlink_to("a.zarr")
    assert open_store("link.zarr").frames == 5
    with pytest.raises(OutputExistsError):
        write(Path("link.zarr"), make_latents(2))
    write(Path("link.zarr"), make_latents(3), overwrite=True)
    assert open_store("a.zarr").frames == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "link.zarr"]
