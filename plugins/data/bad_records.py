"""Bad records and images of a user: reported one by one, counted by kind, and tolerated within a budget."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

LOG = logging.getLogger("patchbay")
MAX_MESSAGES = 100  # stored for one file; all are counted
MESSAGES_IN_ERROR = 3  # or in a log line


class BadRecord(ValueError):
    """One record or image that cannot be used.

    Args:
        kind: under which it is counted: "empty caption".
        sentence: what is wrong, with the value.
        place: the field of the record, as a suffix to its path: ".bbox".
    """

    def __init__(self, kind: str, sentence: str, place: str = ""):
        super().__init__(sentence)
        self.kind, self.place = kind, place


@dataclass
class BadRecords:
    """Counts and messages about one file, or about the images of one run."""

    tried: int = 0  # records or images read, good and bad
    kinds: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.kinds.total()

    def add(self, kind: str, message: str) -> None:
        self.kinds[kind] += 1
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(message)

    def merge(self, other: BadRecords) -> None:
        self.tried += other.tried
        self.kinds += other.kinds
        self.messages = (self.messages + other.messages)[:MAX_MESSAGES]

    def __str__(self) -> str:
        """Format the counts and the first messages: "2 x empty caption, 1 x unknown image. First: ..."."""
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common())
        return f"{counts}. First: {'; '.join(self.messages[:MESSAGES_IN_ERROR])}"

    def check_budget(self, file: str, budget: float) -> None:
        """Log the number of records skipped in a file.

        Raises:
            ValueError: their share is above the budget, or no record is left.
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
