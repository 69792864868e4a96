"""What must survive a power cut is synced before anything relies on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pvtok.store import StoreWriter

from .build import SMALL, make_latents, make_meta

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc to name open files")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Every path that was synced -> when it had last been changed at that time."""
    times: dict[Path, int] = {}

    def fsync(descriptor: int) -> None:
        path = (DESCRIPTORS / str(descriptor)).readlink()
        times[path] = path.stat().st_mtime_ns

    monkeypatch.setattr(os, "fsync", fsync)
    return times


def unsynced(folder: Path, synced: dict[Path, int]) -> set[Path]:
    """Files and folders below `folder` whose last change was not synced (the lock is empty)."""
    paths = set(folder.rglob("*")) - {folder / "lock"}
    return {path for path in paths if synced.get(path) != path.stat().st_mtime_ns}


def test_a_checkpoint_is_durable(tmp_path: Path, synced: dict[Path, int]) -> None:
    folder = tmp_path / "a.zarr.partial"
    with StoreWriter.create(tmp_path / "a.zarr", make_meta(), **SMALL) as writer:
        for latents in (3, 4, 12, 20):
            writer.append(make_latents(latents))
            writer.checkpoint(b"state")
            # progress.json is synced as the draft that then takes its name.
            assert unsynced(folder, synced) == {folder / "progress.json"}
            draft = folder / "progress.json.tmp"
            assert synced[draft] == (folder / "progress.json").stat().st_mtime_ns
            assert folder in synced


def test_a_store_is_durable_before_it_is_visible(
    tmp_path: Path, synced: dict[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, left = Path.rename, []

    def checked(self: Path, target: Path) -> Path:
        left.append(unsynced(self, synced))
        assert synced[self] == self.stat().st_mtime_ns
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", checked)
    with StoreWriter.create(tmp_path / "a.zarr", make_meta(), **SMALL) as writer:
        writer.append(make_latents(30))
        writer.finish(frames=117, timestamps=range(117))
    assert left == [set()]
    assert tmp_path in synced
