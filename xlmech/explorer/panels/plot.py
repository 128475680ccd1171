"""A Plotly figure that stays one widget while what it shows changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

Point = tuple[int, int]
"""Number of the trace, and of the point in it."""


class Plot:
    """A figure widget, made when the first figure is shown.

    A figure widget holds all of Plotly's code, so that it is changed in place, never made again.

    Attributes:
        box: What to put on the page.
    """

    def __init__(self, on_click: Callable[[Any, Any], None]) -> None:
        self.box = widgets.VBox()
        self._on_click = on_click
        self._widget: Any = None

    @property
    def figure(self) -> Any:
        """The figure widget; None before the first figure."""
        return self._widget

    def show(self, figure: go.Figure) -> None:
        """Show another figure."""
        figure = go.Figure(figure).update_layout(autosize=True, clickmode="event")
        if self._widget is None:
            self._widget = go.FigureWidget(figure, layout_autosize=True)
            self._widget._config = self._widget._config | {"displaylogo": False, "responsive": True}
            self.box.children = (self._widget,)
        elif _kinds(self._widget) == _kinds(figure):
            with self._widget.batch_update():
                for old, new in zip(self._widget.data, figure.data, strict=True):
                    old.update(new.to_plotly_json(), overwrite=True)
                self._widget.layout = figure.layout
            return
        else:
            self._widget.data = ()
            self._widget.add_traces(list(figure.data))
            self._widget.layout = figure.layout
        for trace in self._widget.data:
            trace.on_click(self._clicked)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:  # noqa: ARG002 (Plotly passes the keys held down)
        if points.point_inds:
            self._on_click(trace, points)


def _kinds(figure: Any) -> list[str]:
    return [trace.type for trace in figure.data]
