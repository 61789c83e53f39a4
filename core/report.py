"""The closing table of a run, for people: what report.json holds, measures beside what they are to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

CUTS = (1, 5, 10)
Section = dict[str, Any]
Row = tuple[str, ...]


def table(report: Section) -> str:
    """The report as text for a terminal. Sections that it does not know are printed as ``name.key  value``."""
    left = dict(report)
    blocks = []
    for names, show in KNOWN:
        found = [left.pop(name, None) for name in names]
        if any(found):
            blocks.append("\n".join(show(*(section or {} for section in found))))
    others = [pair for name, value in left.items() for pair in _flat(name, value)]
    if others:
        blocks.append("\n".join(_columns([("Other", ""), *others])))
    return "\n\n".join(blocks)


def _retrieval(section: Section) -> list[str]:
    n, ceiling, again = section["candidates"], section["ceiling"], section["reranked"]
    groups = [part for part in (section, again) if part]
    rows: list[Row] = [("", *(f"R@{cut}" for cut in CUTS), *(f"R@{cut}" for cut in CUTS if again))]
    for way, label in (("i2t", "picture to text"), ("t2i", "text to picture")):
        rows.append((label, *(percent(part[f"{way}_r{cut}"]) for part in groups for cut in CUTS)))
    rows.append(("chance", *(percent(min(1, cut / n)) for _ in groups for cut in CUTS)))
    lines = _columns(rows, least=5)  # no percentage is wider
    width = 3 * (5 + 2)  # of a group: three columns, each after two spaces
    heads = ["by ITC", "re-ranked by ITM"][: len(groups)]
    return [
        f"Retrieval among {n} (%). A caption may fit several pictures: R@1 can reach {percent(ceiling)} at most",
        " " * (len(lines[0]) - width * len(groups)) + "".join(head.rjust(width) for head in heads),
        *lines,
    ]


def _patches(section: Section) -> list[str]:
    rate = section.get("positive_rate")
    rows: list[Row] = [("%", "right text", "wrong text", "chance")]
    keep = section.get("keep")
    for suffix, label in (("", ""), ("_withheld", ", withheld")):
        chance = section.get(f"positive_rate{suffix}", rate)
        figures = [
            ("average precision", "average_precision", "average_precision_wrong_text", chance),
            ("recall in best quarter", "recall_at_quarter", "recall_at_quarter_wrong_text", 0.25),
            ("recall at keep", "recall_at_keep", None, keep),
            ("pointing", "pointing", None, chance),
        ]
        for name, right, wrong, control in figures:
            if section.get(f"{right}{suffix}") is not None:
                other = section.get(f"{wrong}{suffix}") if wrong else None
                rows.append((name + label, *map(percent, (section[f"{right}{suffix}"], other, control))))
    count = section.get("examples")
    among = f" in {count} pictures" if count else ""
    return [f"Patches found{among}, {percent(rate)} % of them positive", *_columns(rows)]


def _cost(macs: Section, speed: Section, spread: Section) -> list[str]:
    rows: list[Row] = [("", "pruned", "unpruned", "ratio")]
    if macs:
        pruned, whole = macs["total"], macs["unpruned"]
        rows.append(("MACs a pair", amount(pruned), amount(whole), ratio(whole, pruned)))
    if speed.get("pruned"):
        fast, slow = speed["pruned"], speed["unpruned"]
        rows.append(("pictures/s", f"{fast:,.0f}", f"{slow:,.0f}", ratio(fast, slow)))
    if spread:
        rows.append(("  slowest to fastest", *(f"{low:,.0f} to {high:,.0f}" for low, high in spread.values()), ""))
    lines = ["Inference for a picture with a text: encoders, pruner, fusion", *_columns(rows)]
    parts = {name: count for name, count in macs.get("parts", {}).items() if count}
    if parts:
        lines.append("  MACs pruned: " + ", ".join(f"{name} {amount(count)}" for name, count in parts.items()))
    if macs.get("uncounted"):
        lines.append("  of unknown cost, counted as 0: " + ", ".join(macs["uncounted"]))
    return lines


KNOWN: list[tuple[tuple[str, ...], Callable[..., list[str]]]] = [
    (("retrieval",), _retrieval),
    (("patches",), _patches),
    (("macs", "images_per_second", "images_per_second_spread"), _cost),
]


def percent(share: float | None) -> str:
    """``39.1``; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def amount(count: float) -> str:
    """``17.56 G``, ``124.0 M``: four digits."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.4g} {unit}"
    return f"{count:.0f}"


def ratio(more: float, less: float) -> str:
    return f"{more / less:.2f}x" if less else "-"


def _columns(rows: list[Row], least: int = 0) -> list[str]:
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
