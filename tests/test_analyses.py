"""Studies, benchmarks and notebooks: each asks one question, and uses names and keywords that xlmech has."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from helpers.code_names import imported, unknown_keywords

ROOT = Path(__file__).parents[1]
SHARED = (
    "outputs",
    "headline_rows",
    "headline_tables",
    "headline_gates",
    "headline_gate_tables",
    "measuring",
    "peers",
    "drawing",
)
"""Modules that scripts share."""
SCRIPTS = [path for folder in ("analyses", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
STUDIES = [path for path in SCRIPTS if path.stem not in SHARED and "tools" not in path.parts]
NOTEBOOKS = sorted((ROOT / "analyses").glob("*.ipynb"))


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_one_question_and_says_what_it_writes(path: Path) -> None:
    question, _, writes, *_ = (ast.get_docstring(ast.parse(code_of(path))) or "").splitlines()
    assert question.endswith("?") and question.count("?") == 1
    assert writes.startswith(("Writes", "Prints"))


@pytest.mark.parametrize("path", [*SCRIPTS, *NOTEBOOKS], ids=lambda path: path.stem)
def test_names_and_keywords_exist(path: Path) -> None:
    tree = ast.parse(code_of(path))
    assert list(unknown_keywords(tree, dict(imported(tree)))) == []
