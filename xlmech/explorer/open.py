"""Open an explorer."""

from __future__ import annotations

from typing import Any


def explore(model: Any) -> Any:
    """Open an explorer."""
    raise NotImplementedError(model)
