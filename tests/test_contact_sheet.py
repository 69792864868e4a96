"""Contact sheets hold the frames they were given, untouched."""

import numpy as np
import pytest

from pvtok.contact_sheet import _GAP, contact_sheet
from pvtok.errors import UsageError


def numbered(frames: int, height: int = 12, width: int = 20) -> np.ndarray:
    """Frame t is all of the value t + 100."""
    t = np.arange(100, 100 + frames, dtype=np.uint8)
    return np.broadcast_to(t[:, None, None, None], (frames, height, width, 3)).copy()


def shown(sheet: np.ndarray, top: int, count: int, width: int = 20) -> list[int]:
    """Values of the frames of a row whose first line is `top`."""
    return [int(sheet[top, _GAP + i * (width + _GAP), 0]) for i in range(count)]


def test_frames_are_sampled_evenly_from_first_to_last() -> None:
    sheet = contact_sheet([("", numbered(21))], columns=5)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (12 + 2 * _GAP, 5 * (20 + _GAP) + _GAP, 3)
    assert shown(sheet, _GAP, 5) == [100, 105, 110, 115, 120]


def test_short_clips_show_each_frame_once() -> None:
    sheet = contact_sheet([("", numbered(3))], columns=8)
    assert sheet.shape[1] == 3 * (20 + _GAP) + _GAP
    assert shown(sheet, _GAP, 3) == [100, 101, 102]


def test_frames_are_pasted_unchanged() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), np.uint8)
    sheet = contact_sheet([("", frames)])
    assert np.array_equal(sheet[_GAP : _GAP + 9, _GAP : _GAP + 7], frames[0])
    assert np.array_equal(sheet[_GAP : _GAP + 9, 2 * _GAP + 7 : 2 * _GAP + 14], frames[1])


def test_labels_take_room_above_their_row_and_widen_it_where_needed() -> None:
    plain = contact_sheet([("", numbered(1))])
    labelled = contact_sheet([("a label much wider than one small frame", numbered(1))])
    assert labelled.shape[0] > plain.shape[0]
    assert labelled.shape[1] > plain.shape[1]
    assert labelled[: -12 - _GAP].max() > 200  # ink


def test_rows_of_different_sizes() -> None:
    sheet = contact_sheet([("one", numbered(2)), ("two", numbered(4, 30, 40))])
    assert sheet.shape[1] == 4 * (40 + _GAP) + _GAP
    assert sheet[-_GAP - 1, _GAP, 0] == 100


def test_what_is_not_a_row_is_refused() -> None:
    with pytest.raises(UsageError, match="0 rows"):
        contact_sheet([])
    with pytest.raises(UsageError, match="0 columns"):
        contact_sheet([("a", numbered(1))], columns=0)
    with pytest.raises(UsageError, match=r"'a' is float64 \(1, 12, 20, 3\)"):
        contact_sheet([("a", numbered(1) / 255.0)])
    with pytest.raises(UsageError, match=r"'b' is uint8 \(0, 12, 20, 3\)"):
        contact_sheet([("b", numbered(1)[:0])])
