"""Console script ``patchbay``: import the module of a command and call it. Imports no torch itself."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from core import discovery
from registry import UnknownName, distributions, near
from registry.commands import Command

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


def json_only(as_json: bool) -> contextlib.AbstractContextManager[object]:
    """Redirect standard output to standard error, so that only the JSON printed afterwards reaches it."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_report(work: Callable[[], dict[str, Any]], as_json: bool) -> int:
    """Print a report; with ``as_json`` nothing else reaches standard output."""
    with json_only(as_json):
        report = work()
    if as_json:
        print(json.dumps(report, indent=2))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands = discovery.builtin_commands()
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help(commands))
        return 0
    if args[0] == "--version":
        print(f"patchbay {distributions.version()}")
        return 0
    verb, rest = args[0], args[1:]
    if verb not in commands:
        commands |= discovery.load().commands  # a third party's
    if verb not in commands:
        print(f"there is no command {verb!r}.{near(verb, commands)} Commands: {', '.join(commands)}.", file=sys.stderr)
        return 2
    module, _, function = commands[verb].target.partition(":")
    status: int = getattr(importlib.import_module(module), function)(rest)
    return status


def _help(commands: dict[str, Command]) -> str:
    lines = [f"  {verb:<10}{command.help}" for verb, command in commands.items()]
    return "\n".join(
        [
            "usage: patchbay COMMAND ...",
            "",
            "Efficient vision-language models from plugins.",
            "",
            *lines,
            "",
            "patchbay COMMAND --help prints its arguments. Installed plugins may add commands: see patchbay list.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
