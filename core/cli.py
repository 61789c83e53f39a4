"""Console script ``patchbay``: import the module of a command and call it. Imports no torch itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from core import discovery
from registry import distributions, near, terminal
from registry.commands import format_help


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Without ``argv``, the command is that of the process."""
    return terminal.run_process(lambda: _run(sys.argv[1:])) if argv is None else _run(list(argv))


def _run(args: list[str]) -> int:
    commands = discovery.builtin_commands()
    if not args or args[0] in ("-h", "--help", "help"):
        print(format_help(commands))
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


if __name__ == "__main__":
    sys.exit(main())
