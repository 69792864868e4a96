"""The queues between reading, computing and writing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pvtok.overlap import Background, prefetch


def test_prefetch_keeps_order_and_runs_ahead_by_no_more_than_its_depth() -> None:
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        for i in range(50):
            made += 1
            yield i

    seen = []
    for number in prefetch(numbers(), depth=2):
        seen.append(number)
        assert made <= number + 5  # in hand, two queued, one waiting, one being made
    assert seen == list(range(50))


def test_prefetch_hands_on_what_went_wrong_after_what_went_well() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="disk"):
        for number in prefetch(numbers()):
            seen.append(number)
    assert seen == [1, 2]


def test_closing_prefetch_ends_thread_and_source() -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    items = prefetch(numbers())
    next(items)
    items.close()
    assert closed.is_set()
    assert threading.active_count() == before


def test_background_works_in_order_while_the_caller_goes_on() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.02)
        done.append(item)

    with Background(work) as background:
        background.put(0)
        assert done == []
        for i in range(1, 6):
            background.put(i)
    assert done == list(range(6))


def test_background_stops_at_the_first_failure() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise OSError("full")
        done.append(item)

    with pytest.raises(OSError, match="full"), Background(work, depth=1) as background:
        for i in range(100):
            background.put(i)
    assert done == [0]


def test_background_failure_of_the_last_item_is_not_lost() -> None:
    def work(item: int) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"), Background(work) as background:
        background.put(0)


def test_background_does_not_hide_the_callers_own_failure() -> None:
    def work(item: int) -> None:
        raise OSError("full")

    with pytest.raises(KeyError), Background(work) as background:
        background.put(0)
        raise KeyError("mine")
