"""Progress bars: all of the toolkit's are drawn here, so that one setting hides them."""

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
    """Draw tqdm's bar over `items` (or one that `update` moves), unless `shown` is false or TQDM_DISABLE is set.

    tqdm takes that environment variable as a default, which any `disable=` overrules. `total`, `initial` and `leave` are tqdm's.
    """
    from tqdm.auto import tqdm  # imported late, because its import reads the environment

    hidden = not shown or os.environ.get(_DISABLE, "") not in ("", "0")
    return tqdm(items, desc=label, total=total, initial=initial, disable=hidden, leave=leave)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide progress bars inside the block, other packages' too, unless the environment says whether they are drawn."""
    given = os.environ.get(_DISABLE)
    os.environ.setdefault(_DISABLE, "1")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(_DISABLE, None)
