"""Check what callers choose by name: an error holds the known names and the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

T = TypeVar("T")


def check_choice(what: str, value: object, known: Any) -> None:
    """Raise ValueError unless `value` is one of `known`, a `Literal` type or names; `what` is it in the singular."""
    names = get_args(known) or tuple(known)
    if value not in names:
        raise ValueError(f"unknown {what} {value!r}{hint(value, names)}; use {', '.join(map(repr, names)) or 'none'}")


def check_choices(what: str, values: Iterable[T], known: Any) -> tuple[T, ...]:
    """Return the values of a list; raise ValueError if it is a single text or number, or a value is not known."""
    if isinstance(values, str | int):
        raise ValueError(f"expected a list of {what}s, got {values!r} alone; give a list: [{values!r}]")
    given = tuple(values)
    for value in given:
        check_choice(what, value, known)
    return given


def check_list(what: str, values: Iterable[T]) -> tuple[T, ...]:
    """Return the values of a list; raise ValueError, without the value (it may be personal), if it is a single one."""
    if isinstance(values, str | int):
        raise ValueError(f"expected a list of {what}s, got one {what} alone; give a list: [{what}]")
    return tuple(values)


def hint(word: object, known: Iterable[object]) -> str:
    """Say ` (did you mean 'extraction'?)` if a known name is near `word`, else nothing."""
    by_case = {str(name).casefold().strip(): name for name in known}
    close = difflib.get_close_matches(str(word).casefold(), by_case, n=1)
    return f" (did you mean {by_case[close[0]]!r}?)" if close else ""
