"""The closing table of a run, for people: what report.json holds, as the plugins that measured it tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pluggy


def table(hooks: pluggy.PluginManager, report: dict[str, Any]) -> str:
    """The report as text for a terminal. Sections that no plugin tells are printed as ``name.key  value``."""
    told: dict[str, Sequence[str]] = {}
    for part in reversed(hooks.hook.tell(report=report)):
        told.update(part or {})
    blocks = ["\n".join(told[name]) for name in report if told.get(name)]
    others = [pair for name, value in report.items() if name not in told for pair in _flat(name, value)]
    if others:
        blocks.append("\n".join(columns([("Other", ""), *others])))
    return "\n\n".join(blocks)


def percent(share: float | None) -> str:
    """``39.1``; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def columns(rows: Sequence[tuple[str, ...]], least: int = 0) -> list[str]:
    """Rows with the first column to the left, the others to the right and at least ``least`` wide, indented."""
    widths = [max(least, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """``("patches.pointing", "0.96")`` for every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif value is not None:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
