"""Errors users meet: what went wrong, why, and how to mend it, on one line each.

Every error the library raises for bad input is a `PvtokError`. Its `exit_code` is what the command
line returns (see docs/cli.md): 1 failed, 2 usage, 4 something needed is missing, 5 corrupt data.
"""

from __future__ import annotations


class PvtokError(Exception):
    """Base of all errors meant for users.

    Args:
        what: what went wrong, with the offending value in it.
        why: the cause, where it is known and not already said.
        fix: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(self.__str__())

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments survive the trip between processes.
        return (_rebuild, (type(self), self.what, self.why, self.fix))


def _rebuild(kind: type[PvtokError], what: str, why: str, fix: str) -> PvtokError:
    return kind(what, why=why, fix=fix)


class UsageError(PvtokError, ValueError):
    """An argument that can never work, whatever is on disk."""

    exit_code = 2


class OutputExistsError(PvtokError, FileExistsError):
    """The output is there already and neither overwriting nor resuming was asked for."""


class WriteError(PvtokError):
    """An output could not be written (disk full, no permission, ...)."""


class MissingDependencyError(PvtokError):
    """A program, package, weight file or device that was asked for is not there."""

    exit_code = 4


class VideoError(PvtokError):
    """A video could not be read or written."""


class CorruptVideoError(VideoError):
    """A video file is damaged, truncated or empty."""

    exit_code = 5


class HdrVideoError(VideoError):
    """A high-dynamic-range video without a decision on how to tone-map it."""


class FrameSizeError(VideoError):
    """A frame size that cannot be read, written or tokenised."""


class TailError(VideoError):
    """The last group of frames is not whole and the tail policy is `error`."""


class StoreError(PvtokError):
    """A latent store cannot be used as asked."""


class CorruptStoreError(StoreError):
    """A latent store is damaged or incomplete."""

    exit_code = 5


class StoreVersionError(StoreError):
    """A latent store of a format this version does not know."""


class ModelMismatchError(StoreError):
    """Latents of one model handed to another."""


class CheckpointError(PvtokError):
    """A model checkpoint that cannot be loaded."""


class CorruptCheckpointError(CheckpointError):
    """A model checkpoint whose bytes are damaged."""

    exit_code = 5


class NonFiniteError(PvtokError):
    """NaN or infinity where there must be numbers."""
