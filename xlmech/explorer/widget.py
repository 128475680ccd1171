"""The explorer's widget: controls, answers, panels and code, which follow one state."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from xlmech.explorer import tables
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.code import code_of
from xlmech.explorer.controls import Controls
from xlmech.explorer.panels.attention import Attention
from xlmech.explorer.panels.base import Panel, note
from xlmech.explorer.panels.flow import Flow
from xlmech.explorer.panels.layers import Layers
from xlmech.explorer.panels.neurons import Neurons
from xlmech.explorer.panels.plot import plotly_library
from xlmech.explorer.state import ExplorerState
from xlmech.neurons.neuron_set import NeuronSet

PANELS: tuple[type[Panel], ...] = (Layers, Flow, Neurons, Attention)


class Explorer:
    """A widget on a live model; a notebook shows it as the last line of a cell.

    Attributes:
        circuit: What computes the numbers.
        state: What is looked at.
        panels: The four panels, in the order of the tabs.
        box: The widget.
    """

    def __init__(self, circuit: Circuit, state: ExplorerState, sets: Mapping[str, NeuronSet]) -> None:
        self.circuit = circuit
        self.state = state
        self._languages = circuit.questions.first_languages
        self._undo: list[frozenset[tuple[int, int]]] = []
        self.controls = Controls(circuit.questions, sets, circuit.neuron_set(()), self.change, self.undo)
        self.answers, self.seconds = widgets.HTML(), widgets.HTML()
        self.panels = [panel(circuit, self.change) for panel in PANELS]
        self.tabs = widgets.Tab([panel.box for panel in self.panels], titles=[panel.title for panel in self.panels])
        self.tabs.observe(lambda _: self._show_panel(), "selected_index")
        self.code = widgets.HTML()
        shown = [self.answers, self.seconds, self.tabs, self.code, plotly_library()]
        right = widgets.VBox(shown, layout={"width": "100%", "min_width": "0", "overflow": "hidden"})
        self.box = widgets.HBox([self.controls.box, right], layout={"width": "100%"})
        self.refresh()

    def change(self, **changes: Any) -> None:
        """Look at something else: fields of the state by name.

        Another record is asked in those of the languages in which it can be, and it is patched into the first that fits.

        Raises:
            ValueError: A field, record, language, layer or neuron that there is not; what is looked at stays.
        """
        wanted = tuple(changes.get("languages") or self._languages)
        if "record" in changes:
            changes = self._of_record(changes["record"], wanted) | changes
        state = self.state.at(**changes)
        if state == self.state:
            return
        self.circuit.check(state)
        self._languages = wanted
        if state.ablated != self.state.ablated:
            self._undo.append(self.state.ablated)
        self.state = state
        self.refresh()

    def _of_record(self, name: str, languages: Sequence[str]) -> dict[str, Any]:
        """Return what changes with the record: the languages in which it is asked, the record beside it, the wording."""
        questions = self.circuit.questions
        codes = questions.known_languages(questions.record(name).id, languages) or tuple(languages)
        known = self.state.template < questions.n_templates(name, codes)
        return {"languages": codes, "other": questions.other_of(name), "template": self.state.template if known else 0}

    def undo(self) -> None:
        """Take back the latest change of the ablated neurons."""
        if self._undo:
            self.state = self.state.at(ablated=self._undo.pop())
            self.refresh()

    def refresh(self) -> None:
        """Draw the state: controls, answers, and the panel that is open."""
        self.controls.show(self.state)
        self._show_answers()
        self._show_panel()

    def python(self, panel: CodeName) -> str:
        """Return three lines of Python that give a panel's numbers."""
        return code_of(self.circuit, self.state, panel)

    def _show_answers(self) -> None:
        """Show the answers as soon as they are there, and then what the ablation costs."""
        state, start = self.state, time.perf_counter()
        is_ablated = bool(state.ablated)
        try:
            frame = self.circuit.answers(state)
            self.answers.value = tables.answers(frame, None, ablated=is_ablated, reveal=state.reveal)
            times = [f"answers in {time.perf_counter() - start:.1f} s"]
            if is_ablated:
                self.answers.value = tables.answers(frame, self.circuit.cost(state), ablated=True, reveal=state.reveal)
                times.append(f"with their cost in {time.perf_counter() - start:.1f} s")
        except ValueError as error:
            self.answers.value, times = note(str(error)), []
        except BaseException as error:  # of the model, or the kernel is interrupted
            self.answers.value, self.seconds.value = note(f"no answers: {type(error).__name__}"), ""
            raise
        self.seconds.value = f'<span style="color:#888">{", ".join(times)}</span>'

    def _show_panel(self) -> None:
        panel = self.panels[self.tabs.selected_index or 0]
        panel.look(self.state)
        pieces = [
            tables.copied("the answers", self._code("answers")),
            tables.copied("this panel", self._code(panel.code)),
        ]
        self.code.value = "".join(pieces)

    def _code(self, panel: CodeName) -> str:
        try:
            return self.python(panel)
        except ValueError as error:
            return f"# {error}"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)
