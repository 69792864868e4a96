"""Durable file operations: whole writes, fsync, atomic replacement, one writer per folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pvtok.errors import PvtokError, StoreError, UsageError, WriteError

_FIXES = {
    errno.ENOSPC: "Free some space, then go on with --resume.",
    errno.EDQUOT: "Free some of your quota, then go on with --resume.",
    errno.EACCES: "Choose a folder you may write to.",
    errno.EPERM: "Choose a folder you may write to.",
    errno.EROFS: "Choose a folder you may write to.",
    errno.ENOENT: "Make the folder first.",
}


PROGRESS_FILE = "progress.json"
"""In the folder of an unfinished store: it says what is there and how to go on."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a one-line `WriteError` about `path`."""
    try:
        yield
    except PvtokError:
        raise  # some of them are OSErrors too
    except OSError as error:
        reason = error.strerror or str(error)
        fix = _FIXES.get(error.errno or 0, "")
        raise WriteError(f"cannot write {path}", why=reason, fix=fix) from error


def resolved(path: str | os.PathLike[str]) -> Path:
    """Where a store really lies, links followed: readers and writers must agree on what is
    beside it.

    Raises:
        UsageError: the path has no name, or its links lead nowhere.
    """
    try:
        result = Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{os.fspath(path)!r} is no path", why=str(error)) from error
    if not result.name:
        raise UsageError(f"{os.fspath(path)!r} is no name for a store", fix="Use NAME.zarr.")
    return result


def partial_of(final: Path) -> Path:
    """The folder in which the store `final` is written until it is whole."""
    return final.with_name(final.name + ".partial")


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write every byte of `data` to an unbuffered file, or raise `OSError`."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_durably(path: Path, *parts: bytes) -> None:
    """Create or overwrite `path` with the joined parts and fsync it (not its folder)."""
    with path.open("wb", buffering=0) as file:
        for part in parts:
            write_all(file, part)
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: readers see the old bytes or the new, never a mix."""
    draft = path.with_name(path.name + ".tmp")
    write_durably(draft, data)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a file's own fsync does not)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class FolderLock:
    """The exclusive right to write in a folder, held by `flock`: the system frees it on a kill."""

    NAME = "lock"

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder, self._descriptor = folder, descriptor

    @classmethod
    def acquire(cls, folder: Path) -> FolderLock:
        """Make the folder where needed and lock it.

        Raises:
            StoreError: another writer holds it.
            OSError: the folder or its lock file cannot be made.
        """
        while True:
            folder.mkdir(exist_ok=True)
            try:
                descriptor = os.open(
                    folder / cls.NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
                )
            except FileNotFoundError:
                if not folder.parent.is_dir():
                    raise
                continue  # its last owner has just removed the folder
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if cls._still_there(folder, descriptor):
                    return cls(folder, descriptor)
            except BlockingIOError as error:
                os.close(descriptor)
                raise StoreError(
                    f"{folder} is being written by another process",
                    fix="Wait for it to end, or write to another output.",
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    @classmethod
    def _still_there(cls, folder: Path, descriptor: int) -> bool:
        # The last owner may have removed the folder between our open and our lock.
        try:
            return os.path.samestat((folder / cls.NAME).stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def clear_folder(self) -> None:
        """Remove all in the folder but the lock itself; first what says that there is something
        to go on with, so that a kill midway leaves no promise that cannot be kept."""
        remove(self._folder / PROGRESS_FILE)
        for entry in self._folder.iterdir():
            if entry.name != self.NAME:
                remove(entry)

    def release(self, *, remove_folder: bool = False) -> None:
        """Give the lock back; with `remove_folder` the folder goes first, while still owned."""
        if self._descriptor < 0:
            return
        try:
            if remove_folder:
                self.clear_folder()
                (self._folder / self.NAME).unlink()
                # From here on another writer may make the folder its own; then it stays.
                with suppress(OSError):
                    self._folder.rmdir()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
