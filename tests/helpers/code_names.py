"""What a page's or a script's code imports from xlmech, and keywords that nothing there takes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from helpers.public import public_names

import xlmech


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Import what the code imports from xlmech, anywhere in it: each name and what it means."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xlmech":
            module = __import__(str(node.module), fromlist=["x"])
            for alias in node.names:
                yield alias.asname or alias.name, getattr(module, alias.name)


def is_class_of_others(value: ast.expr, known: Mapping[str, Any]) -> bool:
    return isinstance(value, ast.Name) and value.id[0].isupper() and value.id not in known


def unknown_keywords(tree: ast.AST, known: Mapping[str, Any]) -> Iterator[str]:
    """Calls of known names, figures and methods with a keyword that they do not take.

    Args:
        tree: Code.
        known: Names of the code that mean something of xlmech.
    """
    methods: dict[str, list[Any]] = {}
    for cls in (found for name in public_names() if inspect.isclass(found := getattr(xlmech, name))):
        for name, method in inspect.getmembers(cls, callable):
            methods.setdefault(name, []).append(method)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {keyword.arg for keyword in call.keywords if keyword.arg}
        if isinstance(call.func, ast.Name) and call.func.id in known:
            targets = [known[call.func.id]]
        elif isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "figures":
            targets = [getattr(xlmech.figures, call.func.attr)]
        elif isinstance(call.func, ast.Attribute) and is_class_of_others(call.func.value, known):
            continue
        elif isinstance(call.func, ast.Attribute) and call.func.attr in methods and keywords:
            targets = methods[call.func.attr]  # of any class: which one it is, only the run tells
        else:
            continue
        allowed = {name for target in targets for name in inspect.signature(target).parameters}
        if keywords - allowed:
            yield f"{ast.unparse(call.func)} takes no {', '.join(sorted(keywords - allowed))}"
