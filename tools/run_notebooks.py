"""Run notebooks from top to bottom and save what they show: `python tools/run_notebooks.py [NOTEBOOK ...]`.

Plotly figures are saved as data, which Jupyter and VS Code draw. If a Chromium is installed they are also saved as PNG, for
viewers that draw no Plotly. Cells tagged `widget` are saved without output, because menus do nothing without a kernel.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient

from xlmech import figures

ROOT = Path(__file__).parent.parent
ANALYSES = ROOT / "analyses"
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDTH = 860
LARGE = 200_000
"""Characters of a figure's data above which a saved notebook holds only the picture; running it draws the figure."""


def execute(path: Path) -> Any:
    """Run a notebook in its folder with this checkout's xlmech; figures are saved as data."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    options = {"timeout": 900, "kernel_name": "python3"}
    NotebookClient(notebook, resources={"metadata": {"path": str(ANALYSES)}}, **options).execute()
    return notebook


def tidy(notebook: Any) -> Any:
    """Remove what differs from run to run or is of no use without a kernel: progress bars, menus."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "widget" in cell.metadata.get("tags", ()):
            cell.outputs = []
        if cell.cell_type == "code":
            kept = [one for one in cell.outputs if one.get("name") != "stderr"]
            cell.outputs = [one for one in kept if WIDGET not in one.get("data", {})]
    return notebook


def add_pictures(notebook: Any) -> None:
    """Add a PNG to every Plotly figure, and drop the data of large ones."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if PLOTLY in output.get("data", {}):
                output.data["image/png"] = picture(go.Figure(output.data[PLOTLY], skip_invalid=True))
                if len(json.dumps(output.data[PLOTLY])) > LARGE:
                    del output.data[PLOTLY]


def picture(figure: go.Figure) -> str:
    """Draw the figure as PNG, in base64."""
    with tempfile.TemporaryDirectory() as folder:
        image = figures.save(figure, Path(folder, "figure.png"), width=WIDTH, scale=1)
        return base64.b64encode(image.read_bytes()).decode()


def main() -> None:
    """Run the notebooks that are named, or all."""
    for path in [Path(name) for name in sys.argv[1:]] or sorted(ANALYSES.glob("*.ipynb")):
        started = time.perf_counter()
        notebook = tidy(execute(path))
        try:
            add_pictures(notebook)
        except OSError as error:
            print(f"{path.name}: no pictures ({error})")
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
