"""What is ablated on a model right now, kept on the model: finished work is recognised by it, and other processes repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from xlmech.scopes import OpenBlocks

ASKED: OpenBlocks[str | None] = OpenBlocks("xlmech_asked_language")
"""The query language that `asking` names."""
_NAME = "xlmech_deactivated"


class ActiveAblation(Protocol):
    """One open block of `ablate`; it can be sent to another process and applied to the same model there."""

    @property
    def sets(self) -> Mapping[str, Any]:
        """Sets of neurons by query language, "" for always."""

    def apply(self, model: Any) -> AbstractContextManager[Any]:
        """Ablate the same neurons in the same way on another copy of the model, while the block runs."""


@contextmanager
def record_ablation(network: Any, found: ActiveAblation) -> Iterator[None]:
    """Record on the TransformerLens model that `found` is ablated while the block runs; blocks may end in any order."""
    setattr(network, _NAME, (*active_ablations(network), found))
    try:
        yield
    finally:
        left = tuple(one for one in active_ablations(network) if one is not found)
        if left:
            setattr(network, _NAME, left)
        else:
            delattr(network, _NAME)


def own_hooks(network: Any) -> int:
    """Number of hooks on a TransformerLens model that `ablate` did not put there: what they do cannot be told."""
    ours = sum(len(chosen.by_layer()) for one in active_ablations(network) for chosen in one.sets.values())
    points = {id(point): point for point in network.hook_dict.values()}.values()
    return sum(len(point.fwd_hooks) for point in points) - ours


def active_ablations(network: Any) -> tuple[ActiveAblation, ...]:
    """What is deactivated on a TransformerLens model, in the order in which it was."""
    return tuple(getattr(network, _NAME, ()))
