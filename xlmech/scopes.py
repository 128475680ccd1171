"""Values that hold while a `with` block is open, such as the language that is asked in.

Blocks may be left in another order than they were entered: by an exception, a generator that is never finished, another thread.
Each takes back its own value only, where a token of `ContextVar.reset` would restore what held before its block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class _Block(Generic[T]):
    value: T
    is_open: bool = True


class OpenBlocks(Generic[T]):
    """The values of all open blocks of one kind, of which the innermost holds."""

    def __init__(self, name: str) -> None:
        self._blocks: ContextVar[tuple[_Block[T], ...]] = ContextVar(name, default=())

    def get(self) -> T | None:
        """Return the value of the innermost block that is still open; None outside of any."""
        return next((block.value for block in reversed(self._blocks.get()) if block.is_open), None)

    @contextmanager
    def holding(self, value: T) -> Iterator[T]:
        """Let `value` hold while the block runs."""
        block = _Block(value)
        self._blocks.set((*(other for other in self._blocks.get() if other.is_open), block))
        try:
            yield value
        finally:
            block.is_open = False
            self._blocks.set(tuple(other for other in self._blocks.get() if other.is_open))
