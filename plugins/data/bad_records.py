"""What is wrong with a user's records and pictures: named one by one, counted by kind, and borne within a budget."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

LOG = logging.getLogger("patchbay")
KEPT = 100  # messages of one list that are kept; all are counted
SHOWN = 3  # of them in an error or a log line


class Fault(ValueError):
    """One record or picture that cannot be used.

    Args:
        kind: under which it is counted: "empty caption".
        sentence: what is wrong, with the value.
        place: the field of the record, as a suffix to its path: ".bbox".
    """

    def __init__(self, kind: str, sentence: str, place: str = ""):
        super().__init__(sentence)
        self.kind, self.place = kind, place


@dataclass
class Faults:
    """Of one file, or of one run's pictures."""

    tried: int = 0  # records or pictures looked at, good and bad
    kinds: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.kinds.total()

    def add(self, kind: str, message: str) -> None:
        self.kinds[kind] += 1
        if len(self.messages) < KEPT:
            self.messages.append(message)

    def merge(self, other: Faults) -> None:
        self.tried += other.tried
        self.kinds += other.kinds
        self.messages = (self.messages + other.messages)[:KEPT]

    def __str__(self) -> str:
        """The counts and the first messages: "2 x empty caption, 1 x unknown image. First: ..."."""
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common())
        return f"{counts}. First: {'; '.join(self.messages[:SHOWN])}"

    def settle(self, file: str, budget: float) -> None:
        """Log what was skipped of a file that has been read.

        Raises:
            ValueError: it is more than the budget's share of the records, or nothing is left.
        """
        if self.count == self.tried:
            raise ValueError(f"{file}: holds no usable record: {self}" if self.tried else f"{file}: holds no record")
        if self.count > budget * self.tried:
            raise ValueError(
                f"{file}: {self.count} of {self.tried} records cannot be used; budget={budget:g} allows "
                f"{int(budget * self.tried)}. {self}"
            )
        if self.count:
            LOG.warning("%s: %d of %d records skipped: %s", file, self.count, self.tried, self)
