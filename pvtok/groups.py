"""Arithmetic between frames and latent frames (paper, section "Notation").

A stream of `1 + p*n` frames is `1 + n` groups: group 0 is the first frame alone (an image), every
later group is `p` frames. One latent frame per group. Nothing else in the project divides by `p`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import TailError, UsageError

TailPolicy = Literal["repeat_last", "drop", "error"]
"""What to do with frames that do not fill the last group: repeat the last frame until they do
(they are cut off again on decoding), drop them, or refuse the video."""

TAIL_POLICIES: tuple[TailPolicy, ...] = get_args(TailPolicy)

FramesTHWC = NDArray[np.uint8]


def frames_in(groups: int, p: int = 4) -> int:
    """Frames that `groups` whole groups hold: `1 + p * (groups - 1)`; 0 groups hold 0 frames."""
    return 1 + p * (groups - 1) if groups > 0 else 0


def groups_covering(frames: int, p: int = 4) -> int:
    """Fewest groups that hold `frames` frames."""
    return 1 + -(-(frames - 1) // p) if frames > 0 else 0


def whole_groups(frames: int, p: int = 4) -> int:
    """Groups that `frames` frames fill entirely."""
    return 1 + (frames - 1) // p if frames > 0 else 0


def group_of(frame: int, p: int = 4) -> int:
    """The group (latent frame) that frame `frame` belongs to."""
    return -(-frame // p)


def groups_under(frames: int, tail: TailPolicy, p: int = 4) -> int:
    """Groups that a video of `frames` frames becomes under a tail policy.

    Raises:
        TailError: `tail` is "error" and the last group is not whole.
    """
    if tail not in TAIL_POLICIES:
        raise UsageError(f"unknown tail policy {tail!r}", fix=f"Use one of {TAIL_POLICIES}.")
    covering, whole = groups_covering(frames, p), whole_groups(frames, p)
    if tail == "error" and covering != whole:
        raise TailError(
            f"{frames} frames are not 1 + {p}n",
            why=f"the last group has {frames - frames_in(whole, p)} of {p} frames",
            fix="Use the tail policy 'repeat_last' or 'drop', or cut the video.",
        )
    return covering if tail == "repeat_last" else whole


def grouped(
    chunks: Iterable[FramesTHWC],
    groups_per_chunk: int,
    tail: TailPolicy,
    p: int = 4,
    *,
    done: int = 0,
) -> Iterator[FramesTHWC]:
    """Re-cut a stream of frames into chunks of whole groups.

    The first chunk has `1 + p*(groups_per_chunk - 1)` frames, later ones `p*groups_per_chunk`; the
    last may hold fewer groups. The tail is treated by its policy.

    Args:
        chunks: arrays `[T, H, W, 3]` of any lengths.
        done: frames of the stream that went before, whole groups; 0 at its beginning.

    Raises:
        TailError: see `groups_under`.
    """
    held: list[FramesTHWC] = []
    count, seen = 0, done
    want = p * groups_per_chunk if done else frames_in(groups_per_chunk, p)
    for chunk in chunks:
        seen += len(chunk)
        while len(chunk):
            take = chunk[: want - count]
            held.append(take)
            count += len(take)
            chunk = chunk[len(take) :]
            if count == want:
                yield np.concatenate(held) if len(held) > 1 else held[0]
                held, count, want = [], 0, p * groups_per_chunk
    target = frames_in(groups_under(seen, tail, p), p)
    if count:
        last = np.concatenate(held)
        missing = target - seen
        if missing > 0:
            last = np.concatenate([last, np.repeat(last[-1:], missing, axis=0)])
        elif missing < 0:
            last = last[: len(last) + missing]
        if len(last):
            yield last
