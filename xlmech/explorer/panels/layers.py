"""Layers: the lens per language, and the layer x token table of one prompt."""

from __future__ import annotations

import ipywidgets as widgets

from xlmech.explorer import draw
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.panels.base import Change, Panel, note
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
        self.missing = widgets.HTML()
        self.box.children = (self.message, self.missing, self.lens.box, self.by, self.table.box)

    def draw(self, state: ExplorerState) -> None:
        """Draw both figures; a value that is written alike in all languages has no lens, and the panel says so."""
        self.table.show(draw.predictions(self.circuit.predictions(state), state, by=self.by.value))
        try:
            self.lens.show(draw.lens(self.circuit.lens(state), state))
        except ValueError as error:
            self.missing.value, self.lens.box.layout.display = note(str(error)), "none"
        else:
            self.missing.value = ""

    def _on_curve(self, click: Click) -> None:
        self.change(layer=click.x)

    def _on_cell(self, click: Click) -> None:
        self.change(layer=click.y, position=click.x)
