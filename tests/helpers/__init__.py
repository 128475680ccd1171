"""What tests share.

Importing it before xlmech has jaxtyping and beartype check the shapes and dtypes of tensors whenever a function of xlmech that
names them is called. Other types are mypy's, which is strict; and functions refuse by themselves what a caller may get wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isclass
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, config, install_import_hook

ROOT = Path(__file__).parents[2]
UNCHECKED = ("neurons/ablation.py", "neurons/attribution/attribute.py", "neurons/attribution/baselines.py")
"""Modules that warn with their caller's line, which the checks would shift."""


def has_array(hint: Any) -> bool:
    return isclass(hint) and issubclass(hint, AbstractArray) or any(map(has_array, get_args(hint)))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arrays among a function's arguments and results."""
    arrays = {name: hint for name, hint in function.__annotations__.items() if has_array(hint)}
    function.__annotations__ = arrays
    return beartype(function) if arrays else function


@contextmanager
def unchecked() -> Iterator[None]:
    """Check nothing while the block runs: for a test of what a function does with a tensor that does not fit."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


CHECKED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "xlmech").rglob("*.py"))
    if "jaxtyping" in path.read_text(encoding="utf-8") and not path.as_posix().endswith(UNCHECKED)
]
"""Modules with annotations of arrays."""

install_import_hook(CHECKED, "helpers.check")
