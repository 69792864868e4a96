"""The folder of an unfinished store, and the swap that makes a finished one visible."""

from __future__ import annotations

from pathlib import Path

from pvtok.errors import OutputExistsError, StoreError
from pvtok.store.files import PROGRESS_FILE, FolderLock, partial_of, remove, sync_folder
from pvtok.store.header import LATENTS, METADATA_FILE

_STORE = "store"
_REPLACED = "replaced"
_OURS = (
    _STORE,
    _REPLACED,
    FolderLock.NAME,
    PROGRESS_FILE,
    f"{PROGRESS_FILE}.tmp",
    "checkpoint-*.bin",
)


class Partial:
    """`NAME.zarr.partial`, held by this process alone.

    Inside: `store` (what will be NAME.zarr), the checkpoint (see progress.py), the lock, and for a
    moment `replaced`, the older store that the new one replaces.

    Raises:
        StoreError: another process writes the same store.
        OSError: the folder cannot be made.
    """

    def __init__(self, final: Path) -> None:
        self.final, self.folder = final, partial_of(final)
        self.store = self.folder / _STORE
        self.latents = self.store / LATENTS
        self._replaced = self.folder / _REPLACED
        self._lock = FolderLock.acquire(self.folder)
        try:
            self._refuse_foreign()
            self._undo_swap()
        except BaseException:
            self._lock.release()
            raise

    @property
    def is_begun(self) -> bool:
        """Whether there is an encode to go on with."""
        return (self.folder / PROGRESS_FILE).is_file() and self.latents.is_dir()

    def begin(self) -> None:
        """Clear the folder for a new encode."""
        self._lock.clear_folder()
        self.latents.mkdir(parents=True)
        for folder in (self.store, self.folder, self.folder.parent):
            sync_folder(folder)

    def clear_unfinished(self) -> None:
        """Remove what a killed `finish` may have left beside the shards."""
        for entry in self.store.iterdir():
            if entry != self.latents:
                remove(entry)

    def publish(self, *, overwrite: bool) -> None:
        """Give the store its own name and remove this folder. An older store is moved aside
        first and removed last: a kill in between is undone by the next writer.

        Raises:
            OutputExistsError: there is a store already and `overwrite` is false.
        """
        if self.final.exists():
            if not overwrite:
                raise output_exists(self.final)
            self.final.rename(self._replaced)
        self.store.rename(self.final)
        for folder in (self.folder, self.final.parent):
            sync_folder(folder)
        self.release(remove_folder=True)

    def release(self, *, remove_folder: bool = False) -> None:
        """Let other processes write here; with `remove_folder` nothing is left behind."""
        if remove_folder:
            self._undo_swap()
        self._lock.release(remove_folder=remove_folder)
        if remove_folder:
            sync_folder(self.final.parent)

    def _refuse_foreign(self) -> None:
        for entry in self.folder.iterdir():
            if not any(entry.match(pattern) for pattern in _OURS):
                raise StoreError(
                    f"{self.folder} holds {entry.name}, which is not of an unfinished store",
                    fix="Move it away, or choose another output.",
                )

    def _undo_swap(self) -> None:
        if self._replaced.exists() and not self.final.exists():
            self._replaced.rename(self.final)
            sync_folder(self.final.parent)


def remove_leftover(final: Path) -> None:
    """Remove what a writer killed right after publishing `final` left behind.

    Raises:
        StoreError: another process is writing there.
        OSError: it cannot be removed.
    """
    folder = partial_of(final)
    if folder.is_dir() and not (folder / _STORE).exists():
        Partial(final).release(remove_folder=True)


def check_replaceable(final: Path) -> None:
    """Refuse to overwrite what is no store, such as a folder of videos.

    Raises:
        StoreError: `final` is a file, or a folder that is neither empty nor a Zarr one.
    """
    if not final.exists():
        return
    if final.is_dir() and ((final / METADATA_FILE).is_file() or not any(final.iterdir())):
        return
    raise StoreError(f"{final} is not a store and is not replaced", fix="Choose another output.")


def output_exists(final: Path) -> OutputExistsError:
    """The error for an output that is there already."""
    return OutputExistsError(f"{final} exists already", fix="Use --overwrite to replace it.")
