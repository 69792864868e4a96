"""Frame and group arithmetic, and the re-cutting of streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtok.errors import TailError, UsageError
from pvtok.groups import (
    frames_in,
    group_of,
    grouped,
    groups_covering,
    groups_under,
    whole_groups,
)


@pytest.mark.parametrize(
    ("frames", "covering", "whole"),
    [(0, 0, 0), (1, 1, 1), (2, 2, 1), (5, 2, 2), (6, 3, 2), (17, 5, 5), (32, 9, 8), (33, 9, 9)],
)
def test_counts(frames: int, covering: int, whole: int) -> None:
    assert groups_covering(frames) == covering
    assert whole_groups(frames) == whole


@given(st.integers(0, 10_000))
def test_every_frame_lies_in_its_group(frame: int) -> None:
    group = group_of(frame)
    assert frames_in(group) <= frame < frames_in(group + 1) or frame == group == 0


@given(
    st.lists(st.integers(1, 9), max_size=12),
    st.integers(1, 4),
    st.sampled_from(["repeat_last", "drop"]),
)
def test_grouped_keeps_every_frame_in_order(
    lengths: list[int], groups_per_chunk: int, tail: str
) -> None:
    total = sum(lengths)
    video = np.arange(total, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    cuts = np.split(video, np.cumsum(lengths)[:-1]) if lengths else []
    chunks = list(grouped(cuts, groups_per_chunk, tail))  # type: ignore[arg-type]
    sizes = [len(c) for c in chunks]
    whole = np.concatenate(chunks)[:, 0, 0, 0] if chunks else np.empty(0, np.uint8)
    target = frames_in(groups_under(total, tail))  # type: ignore[arg-type]
    expected = np.minimum(np.arange(target), max(total - 1, 0))
    assert whole.tolist() == expected.tolist()
    if sizes:
        assert sizes[0] <= frames_in(groups_per_chunk)
        assert all(s == 4 * groups_per_chunk for s in sizes[1:-1])
        assert all((s - (i == 0)) % 4 == 0 for i, s in enumerate(sizes))


def test_grouped_goes_on_after_whole_groups() -> None:
    video = np.arange(22, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    whole = list(grouped([video], 2, "repeat_last"))
    rest = list(grouped([video[13:]], 2, "repeat_last", done=13))
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tail_error_says_what_is_missing() -> None:
    with pytest.raises(TailError, match="7 frames are not 1 \\+ 4n: the last group has 2 of 4"):
        groups_under(7, "error")
    assert groups_under(9, "error") == 3


def test_unknown_tail_policy() -> None:
    with pytest.raises(UsageError, match="'wrap'"):
        groups_under(7, "wrap")  # type: ignore[arg-type]
