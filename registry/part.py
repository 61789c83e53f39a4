"""Settings of parts: the annotations that a signature may carry, and a part that is chosen but not yet built."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from registry import Owner

T = TypeVar("T")


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included; None: no bound."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"at most {self.high:g}" if self.high is not None else f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"

    def holds(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


FILLED = "filled in at assembly from other parts"
Filled = Annotated[T, FILLED]  # a parameter that a recipe cannot set
Fraction = Annotated[float, Between(0, 1)]
Count = Annotated[int, Between(1)]
NonNegativeInt = Annotated[int, Between(0)]
NonNegativeFloat = Annotated[float, Between(0)]
PRETRAINED, VOCABULARY = "file of pretrained weights", "folder or file of a vocabulary"
Pretrained = Annotated[str, PRETRAINED]  # emptied when a model is loaded from a run, which has its weights
Vocabulary = Annotated[str, VOCABULARY]  # set to the run's folder when a run is loaded or resumed


class PartError(ValueError):
    """A part could not be built, or broke its contract. The message names the place, the plugin and the error."""


def parameters(call: Callable[..., Any]) -> dict[str, tuple[Any, inspect.Parameter]]:
    """Return the named parameters of a class or function with their resolved annotations."""
    target = call.__init__ if inspect.isclass(call) else call
    hints = typing.get_type_hints(target, include_extras=True)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = inspect.signature(call).parameters.values()
    return {p.name: (hints.get(p.name, Any), p) for p in every if p.kind in named}


def settings_with(cls: type, mark: str) -> list[str]:
    """List the settings of a class whose annotation has a mark, such as PRETRAINED."""
    return [name for name, (hint, _) in parameters(cls).items() if mark in getattr(hint, "__metadata__", ())]


def is_filled(annotation: Any) -> bool:
    return FILLED in getattr(annotation, "__metadata__", ())


@dataclass(frozen=True)
class Part(Generic[T]):
    """A class with its settings. Calling it builds the object, with the widths that follow from other parts."""

    cls: type[T]
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    kind: str = "part"
    where: str = ""  # file:line:col: path
    owner: Owner | None = None

    def __str__(self) -> str:
        label = f"{self.kind} {self.name or self.cls.__name__!r}" if not self.name else f"{self.kind} {self.name!r}"
        third_party = self.owner is not None and self.owner.distribution not in ("", "patchbay-vl")
        return f"{label} ({self.owner})" if third_party else label

    def __call__(self, **filled: Any) -> T:
        """Build the part, with the values of ``filled`` that its signature marks as ``Filled``.

        Raises:
            PartError: its ``__init__`` raised; names the place in the recipe, the plugin and the error.
        """
        names = {name for name, (hint, _) in parameters(self.cls).items() if is_filled(hint)}
        try:
            built = self.cls(**self.settings, **{k: v for k, v in filled.items() if k in names})
        except Exception as err:
            raise self.fault(err) from err
        built.origin = str(self)  # type: ignore[attr-defined]
        return built

    def fault(self, err: Exception) -> PartError:
        """Convert an error to a PartError with the part's place in the recipe; a PartError is returned unchanged."""
        if isinstance(err, PartError):
            return err
        place = f"{self.where}: " if self.where else ""
        message = str(err) if isinstance(err, ValueError) else f"{type(err).__name__}: {err}"
        return PartError(f"{place}{self}: {message}")


def without_pretrained(value: Any) -> Any:
    """Empty the settings of the type ``Pretrained`` of a part and of all parts in it; return other values unchanged."""
    if isinstance(value, Part):
        settings = {key: without_pretrained(setting) for key, setting in value.settings.items()}
        return dataclasses.replace(value, settings=settings | dict.fromkeys(settings_with(value.cls, PRETRAINED), ""))
    if isinstance(value, dict):
        return {key: without_pretrained(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_pretrained, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: without_pretrained(getattr(value, name)) for name in fields})
    return value
