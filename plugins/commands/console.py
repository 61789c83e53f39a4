"""Shared by commands: errors to messages and exit statuses, and output as text or JSON. Imports no torch."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

from registry import UnknownName, json_text, terminal
from registry.part import PartError
from registry.recipe_files import RecipeErrors

TRACEBACK = "PATCHBAY_TRACEBACK"


def run_cli(work: Callable[[], int]) -> int:
    """Run a command; errors that the user can correct are printed without a traceback and give exit status 2.

    With PATCHBAY_TRACEBACK=1 they are raised. Of several ranks, the first alone prints errors that all ranks have.

    Raises:
        ValueError, LookupError, OSError, FloatingPointError: with PATCHBAY_TRACEBACK=1.
    """
    try:
        return work()
    except KeyboardInterrupt as err:
        put(f"\n{err}".rstrip() or "\nstopped", sys.stderr)
        return 130
    except terminal.ClosedOutput:
        return terminal.CLOSED_PIPE
    except (ValueError, LookupError, OSError, FloatingPointError) as err:
        if os.environ.get(TRACEBACK) or (isinstance(err, LookupError) and not isinstance(err, UnknownName)):
            raise
        if not (isinstance(err, (RecipeErrors, PartError)) and os.environ.get("RANK", "0") != "0"):
            put(str(err), sys.stderr)
        return 2


def print_report(
    work: Callable[[], dict[str, Any]],
    as_json: bool,
    table: Callable[[dict[str, Any]], Iterable[str]] | None = None,
) -> int:
    """Print a report: as JSON, which alone reaches standard output, or else as the lines of ``table``."""
    with json_only(as_json) as output:
        report = work()
        if as_json:
            put_json(report, output, indent=2)
        elif table is not None:
            put("\n".join(table(report)))
    return 0


def json_only(as_json: bool) -> contextlib.AbstractContextManager[TextIO]:
    """Reserve standard output for JSON, which is to be written to the stream of this context."""
    return terminal.json_output() if as_json else contextlib.nullcontext(sys.stdout)


def put_json(value: Any, output: TextIO, indent: int | None = None) -> None:
    """Write one JSON document and a line feed; in ASCII with ``indent``, or if ``output`` cannot encode more."""
    utf8 = (output.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    output.write(json_text.dumps(value, indent, ascii_only=indent is not None or not utf8) + "\n")


def put(text: str, output: TextIO | None = None) -> None:
    """Print text to standard output, or to another stream, with control characters escaped."""
    print(terminal.printable(text), file=output)


class Parser(argparse.ArgumentParser):
    """Arguments of a command; messages about them have control characters escaped."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, then exit with status 2.

        Raises:
            SystemExit: always.
        """
        super().error(terminal.printable(message))
