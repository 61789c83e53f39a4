"""Old Python names: public names, methods of blocks, and hooks. Classes list their old attributes themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pluggy

from registry.renaming import ENDS, warn

hookspec = pluggy.HookspecMarker("patchbay")
PUBLIC = {"Cues": "BlockCues", "Held": "LoadedModel", "Sketch": "DataSpec"}
PUBLIC |= {"Share": "Fraction", "Natural": "NonNegativeInt", "Positive": "NonNegativeFloat"}


def block(block: Any) -> Any:
    """Return a transformer block, or an adapter for one with the old methods ``feed`` and ``look``."""
    if hasattr(block, "attention_maps") or not hasattr(block, "look"):
        return block
    warn(f"{type(block).__name__}.feed, .look", "mlp, attention_maps")
    return SimpleNamespace(attend=block.attend, mlp=block.feed, attention_maps=block.look)


@hookspec(warn_on_impl=FutureWarning(f"hook tell is now format_report; {ENDS}"))
def tell(report: dict[str, Any]) -> dict[str, list[str]] | None:
    """Return what ``format_report`` returns."""


@hookspec(firstresult=True, warn_on_impl=FutureWarning(f"hook use(held) is now wrap_loaded_model(loaded); {ENDS}"))
def use(held: Any) -> object | None:
    """Return what ``wrap_loaded_model`` returns."""
