"""What is deactivated on a model right now, noted beside it: finished work is recognised by it, and other processes repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

ASKED: ContextVar[str | None] = ContextVar("xlmech_asked_language", default=None)
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
def noted(network: Any, found: Deactivation) -> Iterator[None]:
    """Note beside the TransformerLens model that `found` is deactivated while the block runs."""
    before = deactivated(network)
    setattr(network, _NAME, (*before, found))
    try:
        yield
    finally:
        if before:
            setattr(network, _NAME, before)
        else:
            delattr(network, _NAME)


def deactivated(network: Any) -> tuple[Deactivation, ...]:
    """What is deactivated on a TransformerLens model, in the order in which it was."""
    return tuple(getattr(network, _NAME, ()))
