"""Progress bars: those of the whole toolkit are drawn here, so that one setting hides them all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm.auto import tqdm

_DISABLE = "TQDM_DISABLE"


def progress_bar(
    items: Iterable[Any] | None = None,
    label: str = "",
    *,
    shown: bool = True,
    total: int | None = None,
    initial: int = 0,
    leave: bool = False,
) -> tqdm[Any]:
    """Draw tqdm's bar, unless it is not to be shown or the environment variable TQDM_DISABLE is set.

    tqdm itself takes that variable as a default, which any `disable=` overrules.

    Args:
        items: What is gone through; without it, `update` moves the bar.
        label: Text before the bar.
        shown: Whether to draw it at all.
        total: Number of items, where they do not tell it.
        initial: Items that were done before.
        leave: Whether the bar stays when it is full.
    """
    from tqdm.auto import tqdm  # it reads the environment when it is imported, which is too early with this module

    hidden = not shown or _is_set(os.environ.get(_DISABLE))
    return tqdm(items, desc=label, total=total, initial=initial, disable=hidden, leave=leave)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide progress bars inside the block, unless the environment says whether they are drawn.

    Bars of other packages are hidden where tqdm is first imported inside the block, which is when it reads the variable.
    """
    given = os.environ.get(_DISABLE)
    os.environ.setdefault(_DISABLE, "1")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(_DISABLE, None)


def _is_set(value: str | None) -> bool:
    return value not in (None, "", "0")
