"""Layers: the lens per language, and the layer x token table of one prompt."""

from __future__ import annotations

import ipywidgets as widgets

from xlmech.explorer import draw
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.panels.base import Change, Panel
from xlmech.explorer.panels.plot import Click, Plot
from xlmech.explorer.state import ExplorerState


class Layers(Panel):
    """The lens per language, and the predicted tokens of the language that is looked at."""

    title = "Layers"
    code: CodeName = "lens"

    def __init__(self, circuit: Circuit, change: Change) -> None:
        super().__init__(circuit, change)
        self.lens = Plot(self._on_curve)
        self.table = Plot(self._on_cell)
        self.by = widgets.ToggleButtons(
            options=[("probability", "prob"), ("entropy", "entropy")],
            description="colour by",
            style={"button_width": "90px"},
        )
        self.by.observe(lambda _: self.again(), "value")
        self.box.children = (self.message, self.lens.box, self.by, self.table.box)

    def draw(self, state: ExplorerState) -> None:
        """Draw both figures."""
        self.table.show(draw.predictions(self.circuit.predictions(state), state, by=self.by.value))
        self.lens.show(draw.lens(self.circuit.lens(state), state))

    def _on_curve(self, click: Click) -> None:
        self.change(layer=click.x)

    def _on_cell(self, click: Click) -> None:
        self.change(layer=click.y, position=click.x)
