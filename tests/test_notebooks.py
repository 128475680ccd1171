"""Every notebook restarts and runs from top to bottom (slow), and is saved with what it shows."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from xlmech import explore
from xlmech.data.languages import TRANSLATED
from xlmech.data.readers import demo_records

PLOTLY = "application/vnd.plotly.v1+json"
ANALYSES = Path(__file__).parents[1] / "analyses"
NOTEBOOKS = sorted(ANALYSES.glob("*.ipynb"))


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "re"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_notebook_is_whole_and_small(path: Path) -> None:
    """What is saved shows what a run shows, with pictures for viewers that draw no Plotly, and nobody's data."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[-1].source.startswith("## Next")
    assert path.stat().st_size < 2_000_000
    shown = outputs(notebook)
    assert shown and all(output.output_type != "error" for output in shown)
    drawn = [output.data for output in shown if PLOTLY in output.get("data", {})]
    assert drawn and all("image/png" in data for data in drawn)
    text = json.dumps([output for output in shown if output.output_type == "stream"], ensure_ascii=False)
    text += "".join(
        str(kind.get("text/html", "")) + str(kind.get("text/plain", "")) + str(kind.get(PLOTLY, ""))
        for kind in (output.get("data", {}) for output in shown)
    )
    for record in demo_records():
        assert record.subject not in text
        assert record.attribute in TRANSLATED or record.value not in text
    assert not re.search(r"/(home|root|work|Users)/", text)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(ANALYSES.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ANALYSES)}}
    )
    client.execute()
    assert outputs(notebook)
    assert all(output.output_type != "error" for output in outputs(notebook))


def test_the_first_notebook_needs_no_widgets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ipywidgets, the explorer's cell says how to get them, and the notebook goes on."""
    cells = [
        cell for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if "widget" in cell.metadata.get("tags", ())
    ]
    assert len(cells) == 1
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    exec(cells[0].source, {"explore": explore, "model": None, "people": (), "display": None})
    assert 'pip install "xlmech[notebook]"' in capsys.readouterr().out
