"""Run notebooks from top to bottom and save what they show: `python analyses/run_notebooks.py [NOTEBOOK ...]`.

Plotly figures are kept as data, which Jupyter and VS Code draw, and where a Chromium is at hand also as PNG, for viewers that
do not. Cells tagged `widget` are saved without output: menus do nothing without a kernel.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient
from plotly.offline import get_plotlyjs

HERE = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDTH = 860
LARGE = 200_000
"""Characters of a figure's data above which a saved notebook holds the picture alone; running it draws the figure."""


def execute(path: Path) -> Any:
    """The notebook, run in this folder with this worktree's xlmech; figures as data alone."""
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    options = {"timeout": 900, "kernel_name": "python3"}
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    return notebook


def tidy(notebook: Any) -> Any:
    """Without what differs from run to run or is of no use without a kernel: progress bars, menus."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "widget" in cell.metadata.get("tags", ()):
            cell.outputs = []
        if cell.cell_type == "code":
            kept = [one for one in cell.outputs if one.get("name") != "stderr"]
            cell.outputs = [one for one in kept if WIDGET not in one.get("data", {})]
    return notebook


def add_pictures(notebook: Any, browser: str) -> None:
    """A PNG beside the data of every Plotly figure, in its place where there are many data."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if PLOTLY in output.get("data", {}):
                output.data["image/png"] = picture(go.Figure(output.data[PLOTLY], skip_invalid=True), browser)
                if len(json.dumps(output.data[PLOTLY])) > LARGE:
                    del output.data[PLOTLY]


def picture(figure: go.Figure, browser: str) -> str:
    """The figure as PNG, in base64, as the browser draws it."""
    with tempfile.TemporaryDirectory() as folder:
        page, image = Path(folder, "figure.html"), Path(folder, "figure.png")
        height = int(figure.layout.height or 450)
        body = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displayModeBar": False},
            default_width=f"{WIDTH}px",
            default_height=f"{height}px",
        )
        page.write_text(
            f'<meta charset="utf-8"><style>body{{margin:0}}</style><script>{get_plotlyjs()}</script>{body}',
            encoding="utf-8",
        )
        size = f"--window-size={WIDTH},{height}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000", size]
        command = [browser, *flags, f"--user-data-dir={folder}/profile", f"--screenshot={image}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return base64.b64encode(image.read_bytes()).decode()


def main() -> None:
    """Run the notebooks that are named, or all."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), "")
    for path in [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        started = time.perf_counter()
        notebook = tidy(execute(path))
        if browser:
            add_pictures(notebook, browser)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1e6
        print(
            f"{path.name}: {time.perf_counter() - started:.0f} s, {size:.2f} MB{'' if browser else ', no Chromium: no PNG'}"
        )


if __name__ == "__main__":
    main()
