"""Ids of images and categories: 1, 1.0 and "1" are one id if that is unambiguous."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

from plugins.data.annotations.records import short_repr
from plugins.data.bad_records import BadRecord

MAX_EXACT_FLOAT = 2**53  # above, different ids can be the same float
WHOLE = re.compile(r"\s*(-?\d{1,40})(?:\.0*)?\s*", re.ASCII)

Id = int | str
Value = TypeVar("Value")


def id_of(record: dict[str, Any], key: str) -> Id:
    """Return a record's id; a float without fraction becomes a whole number.

    Raises:
        BadRecord: neither text nor a whole number.
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value != value:
        raise BadRecord("record without id", f"expected a number or text, found {short_repr(value)}", f".{key}")
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise BadRecord("id is no whole number", f"expected a whole number or text, found {value!r}", f".{key}")
    if abs(value) >= MAX_EXACT_FLOAT:
        message = f"the float {value!r} may stand for several ids; write it without fraction and exponent, or as text"
        raise BadRecord("id is not exact", message, f".{key}")
    return int(value)


class IdTable(Generic[Value]):
    """Values by id, with a second look-up by the number that a text spells: "7", "007" and "7.0" are 7."""

    def __init__(self) -> None:
        self._values: dict[Id, Value] = {}
        self._spellings: dict[int, list[Id]] = {}
        self._indexed = 0  # number of ids when the spellings were listed

    def get(self, key: Id) -> Value | None:
        """Return the value of exactly this id."""
        return self._values.get(key)

    def __setitem__(self, key: Id, value: Value) -> None:
        self._values[key] = value

    def find(self, key: Id, what: str, place: str) -> Value:
        """Return the value of an id, or of the only other spelling of it.

        Raises:
            BadRecord: no such id, or several spellings of it.
        """
        if key in self._values:
            return self._values[key]
        if self._indexed != len(self._values):
            self._indexed, self._spellings = len(self._values), {}
            for known in self._values:
                if (number := _number(known)) is not None:
                    self._spellings.setdefault(number, []).append(known)
        number = _number(key)
        spellings = [] if number is None else self._spellings.get(number, [])
        if len(spellings) == 1:
            return self._values[spellings[0]]
        if spellings:
            ids = ", ".join(map(repr, spellings))
            raise BadRecord(f"ambiguous {what}", f"{key!r} may be any of the ids {ids}", place)
        raise BadRecord(f"unknown {what}", f"no {what} has the id {key!r}", place)


def _number(key: Id) -> int | None:
    if isinstance(key, int):
        return key
    match = WHOLE.fullmatch(key)
    return int(match[1]) if match else None
