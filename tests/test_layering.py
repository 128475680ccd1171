"""Packages import one way, hold at most a dozen modules, list their names once, and are light to import."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.public import public_names

import xlmech

ROOT = Path(xlmech.__file__).parent
ORDER = [
    *(
        "checks",
        "progress",
        "percent",
        "scopes",
        "options",
        "metrics",
        "storage",
        "data",
        "models",
        "engine",
        "execution",
        "leakage",
    ),
    *("lens", "neurons", "neurons.attribution", "neurons.selection", "neurons.evidence", "patching", "planting"),
    *("mitigation", "mitigation.export", "figures", "report", "audit", "explorer", "cli", "__main__"),
]
"""Each may import those before it."""
STRANGERS = {
    *(("lens", "leakage"), ("patching", "leakage"), ("patching", "lens"), ("patching", "neurons.selection")),
    *(("planting", "patching"), ("figures", "mitigation"), ("figures", "leakage"), ("report", "engine")),
}
"""The first does not import the second, though it comes before."""
FILES = sorted(ROOT.rglob("*.py"))
PACKAGES = sorted({path.parent for path in FILES})


def name_of(path: Path) -> str:
    """Dotted name below xlmech, "" for xlmech itself."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def floor(module: str) -> str:
    """Package in `ORDER` that a module belongs to."""
    return next((floor for floor in reversed(ORDER) if f"{module}.".startswith(f"{floor}.")), "")


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from run_time_nodes(child)


def imports(code: str) -> Iterator[tuple[str, list[str]]]:
    """Modules of xlmech that the code imports at run time, in functions too, and the names taken from each."""
    for node in run_time_nodes(ast.parse(code)):
        names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        if isinstance(node, ast.Import):
            yield from (
                (name.removeprefix("xlmech").strip("."), []) for name in names if name.split(".")[0] == "xlmech"
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xlmech":
            base = str(node.module).removeprefix("xlmech").strip(".")
            for name in names:
                dotted = f"{base}.{name}".strip(".")
                is_module = (ROOT / dotted.replace(".", "/")).with_suffix(".py").is_file()
                yield (dotted, []) if is_module or not base else (base, [name])


def test_imports_are_found() -> None:
    code = "import xlmech.cli\nfrom xlmech.data import pairs\ndef f():\n from xlmech.lens.tuned import TunedLens"
    code += "\nif TYPE_CHECKING:\n import xlmech.audit"
    assert list(imports(code)) == [("cli", []), ("data.pairs", []), ("lens.tuned", ["TunedLens"])]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_module_imports_only_what_lies_below(path: Path) -> None:
    here = floor(name_of(path))
    for module, names in imports(path.read_text(encoding="utf-8")):
        there = floor(module)
        assert there, f"no package {module!r}"
        assert ORDER.index(there) <= ORDER.index(here) if here else False, f"{here} may not import {module}"
        strangers = {(here.split(".")[0], name) for name in (there, there.split(".")[0])} & STRANGERS
        assert not strangers, f"{here} does not know {there}"
        assert not [name for name in names if name.startswith("_")], f"private names of {module}"


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_folder_is_seen_at_a_glance(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12


def test_names_of_the_main_workflow_are_few() -> None:
    assert len(xlmech.__all__) <= 30
    assert set(xlmech.__all__) == set(dir(xlmech))
    with pytest.raises(AttributeError, match="module 'xlmech' has no attribute 'leak'"):
        xlmech.leak  # noqa: B018


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_found_from_the_top(name: str) -> None:
    found = getattr(xlmech, name)
    home = importlib.import_module(found.__module__ if name != "figures" else "xlmech")
    assert getattr(home, name) is found


@pytest.mark.parametrize("module", ["xlmech", "xlmech.cli.app"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {
        "torch",
        "transformers",
        "transformer_lens",
        "plotly",
        "pandas",
        "numpy",
        "scipy",
        "babel",
        "faker",
        "jinja2",
    }
    # The command line shows the options' defaults, which pydantic checks.
    assert set(found.stdout.split()) & (heavy | {"pydantic"}) <= ({"pydantic"} if module != "xlmech" else set())
