"""Commands of the console script, and plugins that failed to load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry import Owner, terminal


@dataclass(frozen=True)
class Failure:
    """A plugin that failed to load, and the error. Everything it had registered was removed again."""

    owner: Owner
    fault: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.fault}"


@dataclass(frozen=True)
class Command:
    """A command of the console script; ``target`` is "package.module:function"."""

    help: str
    target: str
    owner: Owner


def command_adder(commands: dict[str, Command], owner: Owner) -> Callable[[str, str, str], None]:
    def add(verb: str, help: str, target: str) -> None:
        if verb in commands:
            raise ValueError(f"command {verb!r} is claimed by {commands[verb].owner} and by {owner}")
        commands[verb] = Command(help, target, owner)

    return add


def format_help(commands: dict[str, Command]) -> str:
    """Format the help of the console script, as wide as the terminal."""
    lines = ["usage: patchbay COMMAND ...", "", "Efficient vision-language models from plugins.", ""]
    lines += [f"  {verb:<10}{command.help}" for verb, command in commands.items()]
    lines += [
        "",
        "patchbay COMMAND --help prints its arguments. Installed plugins may add commands: see patchbay list.",
    ]
    return "\n".join(terminal.wrap(lines, terminal.width(), 12))
