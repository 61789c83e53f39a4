"""The table of results that is printed at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pluggy

from core.hookspecs import hookimpl
from registry import terminal


def table(hooks: pluggy.PluginManager, report: dict[str, Any]) -> str:
    """Format the report for a terminal. Sections that no plugin formats are printed as ``name.key  value``."""
    sections: dict[str, Sequence[str]] = {}
    for part in reversed([*hooks.hook.tell(report=report), *hooks.hook.format_report(report=report)]):
        sections.update(part or {})
    blocks = ["\n".join(sections[name]) for name in report if sections.get(name)]
    others = [pair for name, value in report.items() if name not in sections for pair in _flat(name, value)]
    if others:
        blocks.append("\n".join(columns([("Other", ""), *others])))
    return "\n\n".join(blocks)


def percent(share: float | None) -> str:
    """Format 0.391 as ``39.1``, None as a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def columns(rows: Sequence[tuple[str, ...]], least: int = 0) -> list[str]:
    """Align rows: the first column left, the others right and at least ``least`` characters wide."""
    widths = [max(least if i else 0, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield ``("patches.pointing", "0.96")`` for every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif value is not None:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


@hookimpl
def report_written(hooks: pluggy.PluginManager, report: dict[str, Any]) -> None:
    if not terminal.writes_json():
        print(terminal.printable(table(hooks, report)), flush=True)
