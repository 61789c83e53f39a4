"""Shared by commands: errors to messages and exit statuses, and reports as JSON. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from registry import UnknownName

TRACEBACK = "PATCHBAY_TRACEBACK"


def run_cli(work: Callable[[], int]) -> int:
    """Run a command; errors that the user can correct are printed without a traceback and give exit status 2.

    With PATCHBAY_TRACEBACK=1 they are raised.

    Raises:
        ValueError, LookupError, OSError, FloatingPointError: with PATCHBAY_TRACEBACK=1.
    """
    try:
        return work()
    except KeyboardInterrupt as err:
        print(f"\n{err}".rstrip() or "\nstopped", file=sys.stderr)
        return 130
    except (ValueError, LookupError, OSError, FloatingPointError) as err:
        if os.environ.get(TRACEBACK) or (isinstance(err, LookupError) and not isinstance(err, UnknownName)):
            raise
        print(err, file=sys.stderr)
        return 2


def print_report(work: Callable[[], dict[str, Any]], as_json: bool) -> int:
    """Print a report; with ``as_json`` nothing else reaches standard output."""
    with json_only(as_json):
        report = work()
    if as_json:
        print(json.dumps(report, indent=2))
    return 0


def json_only(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Redirect standard output to standard error, so that only the JSON printed afterwards reaches it."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
