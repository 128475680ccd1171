"""Flow: what each layer and token carries from one language's run into another's, and what is then written."""

from __future__ import annotations

from html import escape

import ipywidgets as widgets

from xlmech.explorer import draw
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.panels.base import Change, Panel
from xlmech.explorer.panels.plot import Click, Plot
from xlmech.explorer.state import Component, ExplorerState
from xlmech.figures.wording import language_name
from xlmech.leakage.extraction import extracted_languages

_VALUES = {
    "normalised effect": "normalised",
    "this value, target's form": "source_in_target",
    "this value, source's form": "source_in_source",
    "the other value": "target_in_target",
}
_COMPONENTS: dict[str, Component] = {
    "residual stream after the layer": "resid_post",
    "output of the layer's attention": "attn_out",
    "output of the layer's MLP": "mlp_out",
}


class Flow(Panel):
    """The patching map of a pair of languages, and the answer of the patched model."""

    title = "Flow"

    def __init__(self, circuit: Circuit, change: Change) -> None:
        super().__init__(circuit, change)
        self._is_drawing = False
        self.map = Plot(self._on_cell)
        self.value = widgets.Dropdown(options=_VALUES, description="colour by")
        self.value.observe(lambda _: self.again(), "value")
        self.component = widgets.Dropdown(options=_COMPONENTS, description="patch", layout={"width": "330px"})
        self.component.observe(lambda event: self._on_component(event["new"]), "value")
        self.answer = widgets.HTML()
        choices = widgets.HBox([self.component, self.value])
        self.box.children = (self.message, choices, self.answer, self.map.box)

    @property
    def code(self) -> CodeName:
        """The map's, or the patched answer's if a cell is selected."""
        return "patched" if self._drawn and self._drawn.layer is not None else "flow"

    def draw(self, state: ExplorerState) -> None:
        """Draw the map, and write the answer of the selected cell."""
        self._is_drawing = True
        self.component.value = state.component
        self._is_drawing = False
        sweep = self.circuit.flow(state)
        known = set(sweep.outcomes.outcome)
        if self.value.value not in {"normalised", *known}:
            self.value.value = "normalised"
        if state.position is not None and state.position >= len(sweep.tokens):
            state = state.at(position=None)
        self.map.show(draw.flow(sweep, state, value=self.value.value))
        self.answer.value = self.written(state)

    def written(self, state: ExplorerState) -> str:
        """Say what the model writes with the selected cell patched."""
        if state.layer is None:
            return "Click a cell: the model then answers with that activation patched."
        text = self.circuit.patched(state)
        questions = self.circuit.questions
        pair = questions.pair(state)
        words = "neither record's value"
        for name, probe in (("this record's value", pair.answer), ("the other record's value", pair.target)):
            if codes := extracted_languages(probe, [text]):
                code = next((code for code in (state.language, state.source) if code in codes), codes[0])
                words = f"<b>{name}</b>, in {escape(language_name(code))}"
                break
        place = "the last token" if state.position is None else f"token {state.position}"
        shown = f": {escape(text.strip())}" if state.reveal else ""
        return f"Layer {state.layer}, {place} patched: the model writes {words}{shown}."

    def _on_component(self, component: Component) -> None:
        if not self._is_drawing:
            self.change(component=component)

    def _on_cell(self, click: Click) -> None:
        self.change(layer=click.y, position=click.x)
