"""Remember what was computed for a state, so that looking at it again costs nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])
N_KEPT = 128


class Memory:
    """The latest results, by what they depend on."""

    def __init__(self, n_kept: int = N_KEPT) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._n_kept = n_kept

    def recall(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """Return what is kept under a key, or compute and keep it."""
        if key not in self._kept:
            self._kept[key] = compute()
            while len(self._kept) > self._n_kept:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def remembered(*names: str) -> Callable[[Method], Method]:
    """Keep a method's result for each combination of these fields of the state, which are all that it reads."""

    def decorate(method: Method) -> Method:
        @wraps(method)
        def recalled(self: Any, state: Any, *rest: Any) -> Any:
            key = (method.__name__, *(getattr(state, name) for name in names), *rest)
            return self.memory.recall(key, lambda: method(self, state, *rest))

        return recalled  # type: ignore[return-value]

    return decorate
