"""Reading, computing and writing at the same time, with bounded queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Run an iterable on a thread, at most `depth` items ahead.

    Its exceptions come out here. Closing the generator stops the thread and closes the iterable.
    """
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            put(_END)

    thread = threading.Thread(target=work, name="pvtok-prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item  # type: ignore[misc]
        if failure:
            raise failure[0]
    finally:
        stop.set()
        thread.join()


class Background(Generic[T]):
    """Calls `work(item)` on a thread, in order, at most `depth` items behind.

    The first exception of `work` comes out of the next `put` or of leaving the block; items after
    it are dropped.
    """

    def __init__(self, work: Callable[[T], None], depth: int = 2) -> None:
        self._work = work
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pvtok-write", daemon=True)

    def __enter__(self) -> Background[T]:
        self._thread.start()
        return self

    def put(self, item: T) -> None:
        self._raise()
        self._queue.put(item)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(_END)
        self._thread.join()
        if kind is None:
            self._raise()

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            if self._failure is None:
                try:
                    self._work(item)  # type: ignore[arg-type]
                except BaseException as error:
                    self._failure = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
