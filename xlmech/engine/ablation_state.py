"""What is ablated on a model right now, recorded on the model: finished shards are recognised by it, and workers repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from xlmech.scopes import OpenBlocks

ASKED_LANGUAGE: OpenBlocks[str | None] = OpenBlocks("xlmech_asked_language")
"""The query language that `asking` names."""
_NAME = "xlmech_active_ablations"


class ActiveAblation(Protocol):
    """One open block of `ablate`; it can be sent to another process and applied to the same model there."""

    @property
    def sets(self) -> Mapping[str, Any]:
        """Sets of neurons by query language, "" for always."""

    def apply(self, model: Any) -> AbstractContextManager[Any]:
        """Ablate the same neurons in the same way on another copy of the model, while the block runs."""


@contextmanager
def record_ablation(network: Any, ablation: ActiveAblation) -> Iterator[None]:
    """Record on the TransformerLens model that `ablation` is active while the block runs; blocks may end in any order."""
    setattr(network, _NAME, (*active_ablations(network), ablation))
    try:
        yield
    finally:
        remaining = tuple(active for active in active_ablations(network) if active is not ablation)
        if remaining:
            setattr(network, _NAME, remaining)
        else:
            delattr(network, _NAME)


def n_foreign_hooks(network: Any) -> int:
    """Count the hooks on a TransformerLens model that `ablate` did not add: what they do is not known."""
    n_of_ablations = sum(
        len(neurons.by_layer()) for active in active_ablations(network) for neurons in active.sets.values()
    )
    points = {id(point): point for point in network.hook_dict.values()}.values()
    return sum(len(point.fwd_hooks) for point in points) - n_of_ablations


def active_ablations(network: Any) -> tuple[ActiveAblation, ...]:
    """List what is ablated on a TransformerLens model, in the order in which the blocks were entered."""
    return tuple(getattr(network, _NAME, ()))
