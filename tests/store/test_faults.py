"""Every kind of damage to a finished store is found by verify and refused on reading."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtok.errors import CorruptStoreError, ModelMismatchError, StoreError, StoreVersionError
from pvtok.store import open_store, verify_store
from pvtok.store.documents import digest, dump, parse
from pvtok.store.header import read_header

from .build import CHUNK, SHARD, copy, frames_of, make_latents, tree, write

LATENTS = 2 * SHARD + 5
CHUNK_BYTES = CHUNK * 3 * 2 * 2 * 2 + 4
FILES = [
    "zarr.json",
    "latents/zarr.json",
    "latents/c.0.0.0.0",
    "latents/c.2.0.0.0",
    "timestamps/zarr.json",
    "timestamps/c.0",
]


@pytest.fixture(scope="module", params=["none", "zstd"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    times = np.arange(frames_of(LATENTS)) / 25
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    return write(path, make_latents(LATENTS), timestamps=times, codec=request.param)


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Iterator[Path]:
    before = tree(whole)
    yield copy(whole, tmp_path / "a.zarr")
    assert tree(whole) == before


def read_everything(path: Path) -> None:
    store = open_store(path)
    store.read()
    _ = store.timestamps


def flips(file: Path, count: int) -> Iterator[None]:
    """Flip seeded bits of a file, one at a time."""
    data = file.read_bytes()
    bits = np.random.default_rng(len(data)).permutation(len(data) * 8)
    for bit in bits[:count]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(flipped)
        yield
    file.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(store: Path, name: str) -> None:
    for _ in flips(store / name, 80):
        assert verify_store(store)
        # Reading may pass over bits that change no value, such as 1e-5 becoming 1E-5.
        if not name.endswith(".json"):
            with pytest.raises(StoreError):
                read_everything(store)
    assert verify_store(store) == []


@pytest.mark.parametrize("name", ["zarr.json", "latents/zarr.json"])
def test_flipped_metadata_never_changes_what_is_read(store: Path, name: str) -> None:
    header, latents = read_header(store), open_store(store).read()
    for _ in flips(store / name, 80):
        with suppress(StoreError):
            found = open_store(store)
            assert read_header(store) == header
            np.testing.assert_array_equal(found.read(), latents)


def test_a_flipped_bit_spoils_its_own_chunk_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_latents(LATENTS))
    file = path / "latents" / "c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[CHUNK_BYTES + 10] ^= 4  # chunk 4 of the array: latents 16:20
    file.write_bytes(data)
    store = open_store(path)
    np.testing.assert_array_equal(store.read(0, 16), make_latents(LATENTS)[:16])
    np.testing.assert_array_equal(store.read(20), make_latents(LATENTS)[20:])
    for window in ((16, 17), (19, 20), (0, LATENTS)):
        with pytest.raises(CorruptStoreError, match=r"c\.1\.0\.0\.0: chunk 4 .*pvtok verify"):
            store.read(*window)
    (fault,) = verify_store(path)
    assert fault.where == "latents/c.1.0.0.0"
    assert "chunk 4 (latents 16:20)" in fault.what


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, 0),
        lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        lambda file: file.write_bytes(b"\0" + file.read_bytes()),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["short", "half", "empty", "long", "shifted", "missing", "folder"],
)
def test_a_damaged_file_is_found(store: Path, name: str, damage: Callable[[Path], Any]) -> None:
    damage(store / name)
    assert verify_store(store)
    with pytest.raises(StoreError) as caught:
        read_everything(store)
    assert "\n" not in str(caught.value)


def test_shards_that_changed_places_are_found(tmp_path: Path) -> None:
    """Two whole shards exchanged: no checksum is wrong, and nothing can tell but the last one."""
    path = write(tmp_path / "a.zarr", make_latents(LATENTS))
    first, last = path / "latents" / "c.0.0.0.0", path / "latents" / "c.2.0.0.0"
    last.write_bytes(first.read_bytes())
    (fault,) = verify_store(path)
    assert "does not name 2 chunks" in fault.what


def test_a_hole_never_passes_for_data(tmp_path: Path) -> None:
    """A shard whose index says, with a valid checksum, that a chunk is absent."""
    from pvtok.store.shard import encode_index

    path = write(tmp_path / "a.zarr", make_latents(LATENTS))
    file = path / "latents" / "c.0.0.0.0"
    file.write_bytes(file.read_bytes()[: 2 * CHUNK_BYTES] + encode_index([CHUNK_BYTES] * 2, 3))
    assert "does not name 3 chunks" in verify_store(path)[0].what
    with pytest.raises(CorruptStoreError):
        open_store(path).read(0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_true_range_is_found(tmp_path: Path, value: float) -> None:
    from pvtok.store.codec import encode_chunk

    latents = make_latents(CHUNK)
    path = write(tmp_path / "a.zarr", latents)
    latents[2, 0, 1, 1] = value
    file = path / "latents" / "c.0.0.0.0"
    file.write_bytes(encode_chunk(latents, "none") + file.read_bytes()[CHUNK_BYTES:])
    assert "NaN" in verify_store(path)[0].what
    store = open_store(path)
    store.read(0, 2)
    with pytest.raises(CorruptStoreError, match=r"chunk 0 .*NaN"):
        store.read(2, 3)


@pytest.mark.parametrize("name", ["x", "latents/c.9.0.0.0", "latents/x/y", "timestamps/c.1"])
def test_unexpected_files_are_found(store: Path, name: str) -> None:
    (store / name).parent.mkdir(exist_ok=True)
    (store / name).write_bytes(b"")
    assert {fault.what for fault in verify_store(store)} == {"it does not belong to the store"}


def test_attributes_of_the_user_are_welcome(tmp_path: Path) -> None:
    import zarr

    path = write(tmp_path / "a.zarr", make_latents(3))
    zarr.open_group(path, mode="r+").attrs["label"] = "cats"
    assert open_store(path).frames == 9
    assert verify_store(path) == []


# What is opened


def test_nothing_there(tmp_path: Path) -> None:
    for call in (open_store, verify_store):
        with pytest.raises(StoreError, match=r"no store at .*pvtok encode"):
            call(tmp_path / "a.zarr")


def test_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(StoreError, match="is not a store"):
            open_store(path)


def test_another_zarr_group(tmp_path: Path) -> None:
    import zarr

    zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="not a pvtok store") as caught:
        open_store(tmp_path / "a.zarr")
    assert type(caught.value) is StoreError


def test_another_model(whole: Path) -> None:
    assert open_store(whole, model_sha256="ab" * 32).frames == frames_of(LATENTS)
    with pytest.raises(ModelMismatchError, match=r"'tiny' \(abababababab\).*\(efefefefefef\)"):
        open_store(whole, model_sha256="ef" * 32)


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the attributes as a hostile writer would: with a right checksum."""
    group = parse((path / "zarr.json").read_bytes())
    block = group["attributes"]["pvtok"]
    change(block)
    block.pop("metadata_sha256")
    block["metadata_sha256"] = digest(block)
    (path / "zarr.json").write_bytes(dump(group))


@pytest.mark.parametrize("sealed", [True, False])
def test_a_newer_format(store: Path, sealed: bool) -> None:
    if sealed:
        reseal(store, lambda block: block.update(format_version=2))
        with pytest.raises(StoreVersionError):
            verify_store(store)
    else:
        text = (store / "zarr.json").read_text()
        (store / "zarr.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))
        assert verify_store(store)
    with pytest.raises(StoreVersionError, match=r"version .*reads version 1.*Upgrade"):
        open_store(store)


def test_other_kinds_and_unfinished_ones(store: Path) -> None:
    reseal(store, lambda block: block.update(complete=False))
    with pytest.raises(CorruptStoreError, match="not finished"):
        open_store(store)
    reseal(store, lambda block: block.update(complete=True, kind="dataset"))
    with pytest.raises(StoreError, match="'dataset', not a single video"):
        open_store(store)


JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(-2, 2**33) | st.none() | st.text(max_size=2), max_size=5),
    st.just({}),
)
KEYS = ["format_version", "kind", "complete", "frames", "dropped_frames", "model", "normalized"]
KEYS += ["latent_mean", "latent_std", "channels", "latent_height", "latent_width", "tail", "width"]
KEYS += ["temporal_ratio", "spatial_ratio", "segment", "height", "crop", "fps", "color", "source"]
KEYS += ["compute_dtype", "extra", "tool_version", "array_sha256"]


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(KEYS), junk=JUNK, inside=st.none() | st.sampled_from(range(4)))
def test_hostile_attributes_are_one_line(
    hostile: Path, key: str, junk: Any, inside: int | None
) -> None:
    good = (hostile / "zarr.json").read_bytes()

    def change(block: dict[str, Any]) -> None:
        if inside is not None and isinstance(block[key], list) and inside < len(block[key]):
            block[key][inside] = junk
        elif inside is not None and isinstance(block[key], dict) and block[key]:
            block[key][sorted(block[key])[inside % len(block[key])]] = junk
        else:
            block[key] = junk

    reseal(hostile, change)
    said = ""
    try:
        open_store(hostile)
    except StoreError as error:
        said = str(error)
    finally:
        (hostile / "zarr.json").write_bytes(good)
    assert "\n" not in said


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hostile") / "a.zarr", make_latents(5))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"attributes": 3}',
        b'{"attributes": {"pvtok": {"format_version": NaN}}}',
        b'{"attributes": {"pvtok": {"format_version": 1e999}}}',
        b'{"attributes": {"pvtok": {"format_version": true}}}',
        b'{"attributes": {"pvtok": {}}}',
        b'{"attributes": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_hostile_documents_are_one_line(hostile: Path, text: bytes) -> None:
    for name in ("zarr.json", "latents/zarr.json"):
        good = (hostile / name).read_bytes()
        (hostile / name).write_bytes(text)
        with pytest.raises(StoreError) as caught:
            open_store(hostile)
        assert "\n" not in str(caught.value)
        assert verify_store(hostile)
        (hostile / name).write_bytes(good)


def test_a_hostile_layout_is_refused_before_memory_is_taken(hostile: Path) -> None:
    """A chunk of petabytes, with all checksums right."""
    files = {name: (hostile / name).read_bytes() for name in ("zarr.json", "latents/zarr.json")}
    array = json.loads(files["latents/zarr.json"])
    array["codecs"][0]["configuration"]["chunk_shape"][1] = 2**50
    (hostile / "latents/zarr.json").write_bytes(dump(array))
    reseal(hostile, lambda block: block["array_sha256"].update(latents=digest(array)))
    with pytest.raises(CorruptStoreError, match="bytes"):
        open_store(hostile)
    for name, data in files.items():
        (hostile / name).write_bytes(data)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    from numcodecs import zstd

    from pvtok.store.codec import seal
    from pvtok.store.shard import encode_index

    path = write(tmp_path / "a.zarr", make_latents(2), codec="zstd")
    for size in (10**8, 10):
        data = seal(zstd.compress(bytes(size)))
        file = path / "latents" / "c.0.0.0.0"
        file.write_bytes(data + encode_index([len(data)], 1))
        with pytest.raises(CorruptStoreError, match="chunk 0"):
            open_store(path).read()
