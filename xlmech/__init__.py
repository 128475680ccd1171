"""xlmech: where does a multilingual model leak people's data across languages, and which neurons stop it?

The names of the main workflow are here; all others are in the package of what they do, and may be imported from here too.
Everything is imported on first use, so that `xlmech --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_WHERE = (
    "options",
    "data",
    "models",
    "engine",
    "execution",
    "leakage",
    "lens",
    "neurons",
    "neurons.attribution",
    "neurons.selection",
    "neurons.evidence",
    "patching",
    "planting",
    "mitigation",
    "mitigation.export",
    "report",
    "audit",
    "explorer",
)
"""Where names that are not of the main workflow are looked for."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _lazy(name)
    for where in _WHERE if not name.startswith("_") else ():
        place = importlib.import_module(f"xlmech.{where}")
        if name in place.__all__:
            return getattr(place, name)
    raise AttributeError(f"module 'xlmech' has no attribute {name!r}")
