"""Standard output and standard error of a command: closed pipes, output that only JSON may reach, widths, escapes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

CLOSED_PIPE = 141  # exit status when nobody reads standard output any more: 128 + SIGPIPE, as of other Unix commands
MIN_WIDTH, MAX_WIDTH = 40, 200  # characters
UNLIMITED = 10_000  # characters
# control characters except tab and line feed, line separators, overrides of the text direction, undecodable bytes
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ClosedOutput(BrokenPipeError):
    """Nobody reads standard output any more, as in ``patchbay list | head -1``."""


class _Descriptor(io.FileIO):
    """A file descriptor whose first failed write raises, in the main thread; everything after it is dropped.

    ``raises``: False for a log, of which nothing raises.
    """

    def __init__(self, descriptor: int, raises: bool):
        super().__init__(descriptor, "w", closefd=False)
        self.raises = self.required = raises
        self.fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes, (n,).

        Raises:
            ClosedOutput: nobody reads them.
            OSError: they cannot be written.
        """
        if self.fault is None:
            try:
                return super().write(data)
            except OSError as err:
                kind = ClosedOutput if err.errno == errno.EPIPE else OSError
                self.fault = kind(err.errno, err.strerror, "standard output")
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())  # writes of plugins and libraries that go around this stream succeed
                os.close(null)
        if self.raises and threading.current_thread() is threading.main_thread():
            self.raises = False
            raise self.fault
        return len(data)


class _Process:
    """Streams of this process. A process of the console script ends with its command, any other goes on."""

    stdout: _Descriptor | None = None  # of the console script
    saved_stdout: int | None = None  # descriptor of the real standard output while only JSON may reach it
    writes_json = False


def run_process(work: Callable[[], int]) -> int:
    """Run the command of a process that ends with it, and return its exit status.

    If nobody reads standard output any more, as after ``| head``, the command ends without a message.

    Raises:
        SystemExit: ``work`` ended the process with a message.
    """
    _open_streams()
    try:
        status = work()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        status = end.code
    finally:
        fault = _flush()
    if fault is None or _Process.stdout is None:
        return status
    if isinstance(fault, ClosedOutput):
        return CLOSED_PIPE if _Process.stdout.required else status
    if status != 2:  # else it is printed already
        print(fault, file=sys.stderr)
    return 2 if _Process.stdout.required else status


def output_is_a_log() -> None:
    """Go on even if standard output is closed or full: a run's results are files."""
    if _Process.stdout is not None:
        _Process.stdout.raises = _Process.stdout.required = False


def _open_streams() -> None:
    """Replace standard output and standard error by streams that encode any text and fail once, or not at all."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by ``>&-``: the next file, a checkpoint perhaps, would get its number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__ and _is_plain(sys.stdout):
        sys.stdout = _stream(1, sys.stdout, raises=True)
        _Process.stdout = sys.stdout.buffer.raw  # type: ignore[attr-defined]
    if sys.stderr is sys.__stderr__ and _is_plain(sys.stderr):
        sys.stderr = _stream(2, sys.stderr, raises=False)


def _is_plain(stream: Any) -> bool:
    """Return True for a closed stream and for one that writes to a descriptor, False for a console of Windows."""
    raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
    return stream is None or type(raw) is io.FileIO


def _stream(descriptor: int, model: TextIO | None, raises: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(descriptor, raises)),
        encoding=getattr(model, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(model, "line_buffering", False) or descriptor == 2,
        write_through=getattr(model, "write_through", False),
    )


def _flush() -> OSError | None:
    """Flush both streams and return the error of standard output, if it ever had one."""
    if _Process.stdout is None:
        return None
    _Process.stdout.raises = False
    for stream in (sys.stdout, sys.stderr):
        _flush_quietly(stream)
    return _Process.stdout.fault


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send standard output to standard error, also that of C code, subprocesses and threads."""
    restore = _redirect()[1]
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def json_output() -> Iterator[TextIO]:
    """Send standard output to standard error as ``stdout_to_stderr`` does; yield the only stream that still reaches it.

    In a process of the console script, standard output stays redirected until the end: threads go on, and libraries
    print when they are unloaded.
    """
    output, before = sys.stdout, (_Process.saved_stdout, _Process.writes_json)
    saved, restore = _redirect()
    if saved is not None and _descriptor_of(output) == 1:
        output = _stream(saved, output, raises=True)
    _Process.saved_stdout, _Process.writes_json = saved, True
    try:
        yield output
        output.flush()
    finally:
        if _Process.stdout is None:
            restore()
            _Process.saved_stdout, _Process.writes_json = before


def writes_json() -> bool:
    """Return True while standard output is reserved for JSON, so that tables are not to be printed."""
    return _Process.writes_json


def discard_stdout() -> None:
    """Discard everything that this process, one of several ranks, writes to standard output."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in filter(None, (1, _Process.saved_stdout)):
        os.dup2(null, descriptor)
    if _Process.writes_json:
        sys.stdout = _stream(null, sys.stdout, raises=False)  # it is standard error until now


def _redirect() -> tuple[int | None, Callable[[], None]]:
    """Send standard output to standard error; return a descriptor of the old one and a function that restores it."""
    python = sys.stdout
    try:
        _flush_quietly(python)
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # this process has no such descriptors
        saved = None
    sys.stdout = sys.stderr

    def restore() -> None:
        sys.stdout = python
        if saved is not None:
            _flush_quietly(sys.__stdout__)  # what was written directly to it
            with contextlib.suppress(Exception):  # no such function on this system
                ctypes.CDLL(None).fflush(None)  # what C code left in its buffers
            os.dup2(saved, 1)
            os.close(saved)

    return saved, restore


def _flush_quietly(stream: TextIO | None) -> None:
    with contextlib.suppress(AttributeError, ValueError):  # no stream, or a closed one
        stream.flush()  # type: ignore[union-attr]


def _descriptor_of(stream: TextIO | None) -> int | None:
    try:
        return stream.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return None


def printable(text: str) -> str:
    """Escape what a terminal would obey or cannot show: ``\\x1b[2J``, and ``\\xff`` for an undecodable byte."""
    return CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    code -= 0xDC00 * (0xDC80 <= code <= 0xDCFF)  # a byte of a file name, as os.fsdecode returns it
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def width(default: int = 80) -> int:
    """Return the characters in a line of the terminal, or of COLUMNS; ``default`` if neither is there."""
    columns = shutil.get_terminal_size((default, 24)).columns
    return columns if columns == default else min(max(columns, MIN_WIDTH), MAX_WIDTH)


def wrap(lines: Iterable[str], columns: int, indent: int) -> list[str]:
    """Break lines at spaces. What follows a break is indented, except in lines without indent."""
    return [piece for line in lines for piece in wrap_line(line, columns, indent if line[:1] == " " else 0)]


def wrap_line(line: str, columns: int, indent: int) -> list[str]:
    """Break one line at spaces; what follows a break is indented."""
    if len(line) <= columns:
        return [line]
    wrapper = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    wrapper.subsequent_indent = " " * min(indent, columns // 2)
    return wrapper.wrap(line) or [line]
