"""Running ffmpeg: no shell, no terminal, nothing left behind, and its last words kept."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import IO, NamedTuple, Self, cast

from pvtok.video.names import one_line

GLOBAL_ARGS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+info")
"""`repeat` so that equal lines stay lines, `level` so that each says how bad it is."""

_LINE = re.compile(r"(?:\[[^\]]* @ (?:0x)?[0-9a-fA-F]+\] )*\[(\w+)\] ?(.*)", re.DOTALL)
_ERROR_LEVELS = ("panic", "fatal", "error")

# Lines by which ffmpeg sums up what an earlier line said better.
_SUMMARIES = re.compile(
    r"Error opening (input|output)|Conversion failed|Task finished with error|"
    r"Terminating thread|Nothing was written|Error (while )?(filtering|closing|binding|opening)|"
    r"Failed to set value|Error parsing"
)

_PIPE_BYTES = 1 << 20


class LogLine(NamedTuple):
    """One line of ffmpeg's log: its level ("error", "warning", "info", ...) and its text."""

    level: str
    text: str

    @property
    def is_error(self) -> bool:
        return self.level in _ERROR_LEVELS


def parse_line(raw: bytes) -> LogLine:
    """A line as ffmpeg wrote it, without the component's name. Bytes may be anything."""
    text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
    match = _LINE.match(text)
    return LogLine(match[1], match[2]) if match else LogLine("", text)


class Process:
    """A running ffmpeg. A context manager: leaving it kills what still runs and closes all pipes.

    Its log is read by a thread all the while (a full pipe would stop ffmpeg) and handed line by
    line to `on_line`; only the last errors are kept here.
    """

    def __init__(
        self,
        command: list[str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        on_line: Callable[[LogLine], None] | None = None,
    ) -> None:
        self._errors: deque[LogLine] = deque(maxlen=32)
        self._on_line = on_line
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Ctrl-C is ours to handle: a writer must still be able to clean up after itself.
            start_new_session=True,
        )
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                _enlarge(pipe)
        self._drain = threading.Thread(target=self._read_log, name="ffmpeg-log", daemon=True)
        self._drain.start()

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def logging(self) -> bool:
        """More log lines may come."""
        return self._drain.is_alive()

    def _read_log(self) -> None:
        # Unbuffered pipes are raw, which the type stubs do not know.
        with io.BufferedReader(cast(io.RawIOBase, self._popen.stderr)) as log:
            # Lines of any length are cut, so that a hostile file cannot fill our memory.
            while raw := log.readline(4096):
                line = parse_line(raw)
                if line.is_error:
                    self._errors.append(line)
                if self._on_line is not None:
                    self._on_line(line)

    def wait(self) -> int:
        """Exit status, once ffmpeg has ended and its log is read to the end."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        status = self._popen.wait()
        self._drain.join()
        return status

    def cause(self, status: int = 0) -> str:
        """Why ffmpeg failed, on one line: the last line of its log that tells.

        Args:
            status: as `wait` gave it; a signal that ended ffmpeg is named if the log is silent.
        """
        texts = [one_line(line.text) for line in self._errors]
        telling = [t for t in texts if not _SUMMARIES.match(t)] or texts
        if telling:
            return f"ffmpeg: {telling[-1]}"
        if status < 0:
            return f"ffmpeg was ended by a signal: {signal.strsignal(-status)}"
        return "ffmpeg failed without a message"

    def close(self) -> None:
        """Kill ffmpeg if it runs, and release every pipe and thread. Safe to call again."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        self._drain.join()
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _enlarge(pipe: IO[bytes]) -> None:
    """Give a pipe room for whole frames, where the system allows it: fewer switches per frame."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
