"""A Plotly figure that stays one widget while what it shows changes.

Plotly's own FigureWidget is sent empty, and its data after it; and anywidget gives up on a module as large as Plotly if the
browser is busy, so that an empty figure stays. Here the figure is in the widget from the first, each change is drawn, and Plotly
is loaded beside the widgets, once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs


@dataclass(frozen=True, kw_only=True)
class Click:
    """A point that was clicked.

    Attributes:
        trace: Number of its trace.
        point: Its number in the trace; -1 in a heat map.
        x: Its place on the x axis.
        y: Its place on the y axis.
    """

    trace: int
    point: int
    x: int
    y: int


class Plot:
    """A figure on the page, made when the first figure is shown.

    Attributes:
        box: What to put on the page.
        figure: What is shown; None before the first figure.

    Args:
        on_click: Takes a click on a point.
    """

    def __init__(self, on_click: Callable[[Click], None] | None = None) -> None:
        self.box = widgets.VBox()
        self.figure: go.Figure | None = None
        self._on_click = on_click
        self._widget: Any = None

    def show(self, figure: go.Figure) -> None:
        """Show another figure."""
        self.figure = go.Figure(figure).update_layout(autosize=True)
        text = self.figure.to_json()
        if self._widget is None:
            self._widget = _PlotWidget(figure=text)
            self._widget.observe(lambda event: self.click(event["new"]), "clicked")
            self.box.children = (self._widget,)
        else:
            self._widget.figure = text

    def click(self, told: dict[str, Any]) -> None:
        """Act on a click as the browser tells it; a place that is no number is told as None, and is none to go to."""
        places = [told[name] for name in ("trace", "point", "x", "y")]
        if self._on_click is not None and None not in places:
            trace, point, x, y = (round(place) for place in places)
            self._on_click(Click(trace=trace, point=point, x=x, y=y))


def plotly_library() -> widgets.Widget:
    """Return a widget that shows nothing and brings Plotly to the page; every page with plots needs one."""
    return _PlotWidget(library=get_plotlyjs(), figure='{"data": [], "layout": {}}', layout={"display": "none"})


class _PlotWidget(anywidget.AnyWidget):  # type: ignore[misc]
    _esm = Path(__file__).with_suffix(".js")
    library = traitlets.Unicode().tag(sync=True)
    figure = traitlets.Unicode().tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)
