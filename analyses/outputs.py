"""Write what studies find: pages and numbers in `figures/`, and results that take long to compute in `analyses/results/`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xlmech.figures import finish, language_name, saving
from xlmech.figures.marks import matrix, small
from xlmech.figures.wording import interval, ordered, percent, rows_of

FIGURES = Path(__file__).parent.parent / "figures"
RESULTS = Path(__file__).parent / "results"


def save_page(figure: go.Figure, name: str) -> None:
    """Write `figures/<name>.html`, which reads the demo's `plotly.min.js` and so stays small."""
    saving.write(FIGURES / f"{name}.html", saving.page_of(figure, plotlyjs="demo/plotly.min.js"))


def training_matrix(rates: pd.DataFrame) -> go.Figure:
    """Draw private extraction by training language (rows) and query language, in percent.

    Args:
        rates: By `plant` and `query` language: `private_value` with `private_low` and `private_high`, and `control`, shares.
    """
    rows = {(row.Index[0], row.Index[1]): row for row in rows_of(rates)}
    trained = list(dict.fromkeys(rates.index.get_level_values("plant")))
    queries = ordered(rates.index.get_level_values("query"), *trained)

    def text(row: Any) -> str:
        return f"{percent(row.private_value)}<br>{small(interval(row.private_low, row.private_high))}"

    def hover(plant: str, query: str, row: Any) -> str:
        asked = f"asked in {language_name(query)}, trained in {language_name(plant)}"
        return f"{asked}<br>{text(row)}, 95 % interval<br>control people {percent(row.control)}"

    figure = matrix(
        rows, trained, queries, value="private_value", hover=hover, text=text, low=0, high=1, title="extraction",
        white_from=0.7,
    )  # fmt: skip
    figure.update_traces(colorbar={"tickvals": [0, 0.5, 1], "ticktext": ["0 %", "50 %", "100 %"]})
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="training language")
    others = [row for (plant, query), row in rows.items() if plant != query]
    above = sum(row.private_low > row.control for row in others)
    title = (
        f"Private data cross languages: {above} of {len(others)} cells off the diagonal lie above control people's rate"
    )
    if not above:
        title = "Outside the training language no cell lies above control people's rate"
    caption = """Outlined: asked in the training language itself; dark cells elsewhere are data that crossed languages. In
    brackets: 95 % interval over people."""
    details = "Above: the interval's lower end exceeds the rate of control people, who were never in the training text."
    return finish(figure, title, caption, details=details, height=60 * len(trained), foot=110, need=820)


def save_text(text: str, name: str) -> None:
    """Write `figures/<name>`; a file that is there is replaced when the new one is whole."""
    partial = FIGURES / f".{name}.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(FIGURES / name)


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """Make a command's parser, whose help is the script's docstring."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
