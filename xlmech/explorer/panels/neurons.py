"""Neurons: where the answer's neurons are, which they are, and what is left of the answer without some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from xlmech.explorer import draw, tables
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.panels.base import Change, Panel
from xlmech.explorer.panels.plot import Click, Plot
from xlmech.explorer.state import ExplorerState
from xlmech.figures.wording import rows_of
from xlmech.neurons.neuron_set import Neuron, pairs_of

N_LISTED = 20


class Neurons(Panel):
    """The map of neurons, and the list in which they are ticked."""

    title = "Neurons"

    def __init__(self, circuit: Circuit, change: Change) -> None:
        super().__init__(circuit, change)
        self.map = Plot(self._on_neuron)
        self.more = widgets.Checkbox(
            description="exact effect, promoted tokens, public facts and language neurons (slower)", indent=False,
            layout={"width": "auto"},
        )  # fmt: skip
        self.more.observe(lambda _: self.again(), "value")
        self.ticks = [
            widgets.Checkbox(indent=False, layout={"width": "190px", "height": "24px"}) for _ in range(N_LISTED)
        ]
        self.texts = [widgets.HTML(layout={"flex": "1 1 0", "min_width": "0"}) for _ in range(N_LISTED)]
        for number, tick in enumerate(self.ticks):
            tick.observe(lambda event, number=number: self._on_tick(number, event["new"]), "value")
        rows = [widgets.HBox(pair) for pair in zip(self.ticks, self.texts, strict=True)]
        self.rows = widgets.VBox(rows, layout={"overflow": "auto"})
        self.listed: list[Neuron] = []
        self._is_drawing = False
        self.box.children = (self.message, self.map.box, self.more, self.rows)

    @property
    def code(self) -> CodeName:
        """The attribution's, or the exact effects' where these are shown."""
        return "exact" if self.more.value else "attribution"

    def draw(self, state: ExplorerState) -> None:
        """Draw the map and the list."""
        ranked = self.circuit.ranked(state, N_LISTED)
        self.map.show(draw.neurons(self.circuit.attribution(state), ranked, state))
        known = self._known(state) if self.more.value else dict.fromkeys(("exact", "raised", "public", "languages"))
        self.listed = pairs_of(ranked)
        self._is_drawing = True
        try:
            for number, row in enumerate(rows_of(ranked)):
                pair = self.listed[number]
                self.ticks[number].description = f"layer {pair[0]}, neuron {pair[1]}"
                self.ticks[number].value = pair in state.ablated
                self.texts[number].value = tables.neuron_row(row, **known)
        finally:
            self._is_drawing = False

    def _known(self, state: ExplorerState) -> Mapping[str, Any]:
        """Compute what takes longer than a glance."""
        exact = self.circuit.exact(state, N_LISTED)
        public = self.circuit.public(state)
        return {
            "exact": {(int(row.layer), int(row.neuron)): float(row.effect) for row in rows_of(exact)},
            "raised": self.circuit.raised(state, N_LISTED),
            "public": None if public is None else {pair: float(public.mean[0][pair]) for pair in self.listed_of(state)},
            "languages": self.circuit.language_neurons(state) or None,
        }

    def listed_of(self, state: ExplorerState) -> list[Neuron]:
        """Return the neurons that are in the list of a state."""
        ranked = self.circuit.ranked(state, N_LISTED)
        return pairs_of(ranked)

    def _on_tick(self, number: int, is_ticked: bool) -> None:
        if not self._is_drawing and self._drawn is not None and number < len(self.listed):
            pair = frozenset([self.listed[number]])
            self.change(ablated=self._drawn.ablated | pair if is_ticked else self._drawn.ablated - pair)

    def _on_neuron(self, click: Click) -> None:
        if self._drawn is not None:
            self.change(ablated=self._drawn.ablated ^ {(click.y, click.x)}, layer=click.y)
