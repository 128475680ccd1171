"""Check what callers choose by name where it comes in: an error holds the known names and the nearest.

One rule for lists: a single text (or number) where a list is meant is refused, since Python would take it letter by letter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

T = TypeVar("T")


def check_choice(what: str, value: object, known: Any) -> None:
    """Raise ValueError, naming the known choices and the nearest, unless `value` is one of them.

    Args:
        what: What is chosen, in the singular, such as `measure`.
        value: What the caller gave.
        known: A `Literal` type, or names.
    """
    names = get_args(known) or tuple(known)
    if value not in names:
        raise ValueError(f"unknown {what} {value!r}{hint(value, names)}; use {', '.join(map(repr, names)) or 'none'}")


def check_choices(what: str, values: Iterable[T], known: Any) -> tuple[T, ...]:
    """The values of a list, once each of them is known to be a choice.

    Args:
        what: What is chosen, in the singular.
        values: What the caller gave.
        known: A `Literal` type, or names.

    Raises:
        ValueError: No list, or a value that is not known.
    """
    if isinstance(values, str | int):
        raise ValueError(f"expected a list of {what}s, got {values!r} alone; give a list: [{values!r}]")
    given = tuple(values)
    for value in given:
        check_choice(what, value, known)
    return given


def check_list(what: str, values: Iterable[T]) -> tuple[T, ...]:
    """The values of a list, whatever they are; none is shown in the message, since it may be personal.

    Args:
        what: One of them, in the singular.
        values: What the caller gave.

    Raises:
        ValueError: A single text or number in the place of a list.
    """
    if isinstance(values, str | int):
        raise ValueError(f"expected a list of {what}s, got one {what} alone; give a list: [{what}]")
    return tuple(values)


def hint(word: object, known: Iterable[object]) -> str:
    """` (did you mean 'extraction'?)` where a known name is near, else nothing."""
    by_case = {str(name).casefold().strip(): name for name in known}
    close = difflib.get_close_matches(str(word).casefold(), by_case, n=1)
    return f" (did you mean {by_case[close[0]]!r}?)" if close else ""
