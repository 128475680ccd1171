"""Names that a person may import from `xlmech`."""

from __future__ import annotations

import importlib

import xlmech


def public_names() -> list[str]:
    """Those of the main workflow, and those of every package."""
    places = [importlib.import_module(f"xlmech.{where}") for where in xlmech._WHERE]
    return sorted({*xlmech.__all__, *(name for place in places for name in place.__all__)})
