"""What is ablated on a model right now, kept on the model: finished work is recognised by it, and other processes repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xlmech.scopes import OpenBlocks

ASKED: OpenBlocks[str | None] = OpenBlocks("xlmech_asked_language")
"""The query language that `asking` names."""
_NAME = "xlmech_deactivated"


@dataclass(frozen=True, eq=False, kw_only=True)
class Deactivation:
    """One block of `ablate`.

    Attributes:
        sets: NeuronSets by language, "" for always.
        how: The other keyword arguments, as they were given.
    """

    sets: Mapping[str, Any]
    how: Mapping[str, Any]


@contextmanager
def record_ablation(network: Any, found: Deactivation) -> Iterator[None]:
    """Record on the TransformerLens model that `found` is ablated while the block runs; blocks may end in any order."""
    setattr(network, _NAME, (*deactivated(network), found))
    try:
        yield
    finally:
        left = tuple(one for one in deactivated(network) if one is not found)
        if left:
            setattr(network, _NAME, left)
        else:
            delattr(network, _NAME)


def own_hooks(network: Any) -> int:
    """Number of hooks on a TransformerLens model that `ablate` did not put there: what they do cannot be told."""
    ours = sum(len(chosen.by_layer()) for one in deactivated(network) for chosen in one.sets.values())
    points = {id(point): point for point in network.hook_dict.values()}.values()
    return sum(len(point.fwd_hooks) for point in points) - ours


def deactivated(network: Any) -> tuple[Deactivation, ...]:
    """What is deactivated on a TransformerLens model, in the order in which it was."""
    return tuple(getattr(network, _NAME, ()))
