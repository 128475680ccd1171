"""Write what studies find: pages and numbers in `figures/`, and results that take long to compute in `analyses/results/`."""

from __future__ import annotations

import argparse
from pathlib import Path

import plotly.graph_objects as go

from xlmech.figures import saving

FIGURES = Path(__file__).parent.parent / "figures"
RESULTS = Path(__file__).parent / "results"


def save_page(figure: go.Figure, name: str) -> None:
    """Write `figures/<name>.html`, which reads the demo's `plotly.min.js` and so stays small."""
    saving.write(FIGURES / f"{name}.html", saving.page_of(figure, plotlyjs="demo/plotly.min.js"))


def save_text(text: str, name: str) -> None:
    """Write `figures/<name>`; a file that is there is replaced when the new one is whole."""
    partial = FIGURES / f".{name}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(FIGURES / name)


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """Make a command's parser, whose help is the script's docstring."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
