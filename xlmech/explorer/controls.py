"""The explorer's left side: record, languages, wording and form, and the neurons that are ablated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from xlmech.checks import check_choice
from xlmech.data import languages as packs
from xlmech.explorer.questions import Questions
from xlmech.explorer.state import ExplorerState
from xlmech.figures.wording import counted
from xlmech.neurons.neuron_set import Neuron, NeuronSet

_WIDE = {"width": "285px"}
_BUTTON = {"width": "76px"}
_EXPORT = "ablated-neurons.json"


class Controls:
    """Widgets that show a state and change it.

    Attributes:
        box: What to put on the page.
        record: Record that is looked at; so are the other fields named like the state's.
    """

    def __init__(
        self,
        questions: Questions,
        sets: Mapping[str, NeuronSet],
        shape: NeuronSet,
        change: Callable[..., None],
        undo: Callable[[], None],
    ) -> None:
        self._questions = questions
        self._sets = {f"{name} ({len(chosen):,})": chosen for name, chosen in sets.items()}
        self._shape = shape
        self._change = change
        self._state: ExplorerState | None = None
        self._is_showing = False
        self.record = dropdown("record")
        self.other = dropdown("into record")
        self.languages = widgets.SelectMultiple(
            options=_named(questions.languages),
            description="languages",
            rows=min(8, len(questions.languages)),
            layout=_WIDE,
        )
        self.language = dropdown("look at")
        self.source = dropdown("flow from")
        self.template = dropdown("wording")
        self.form = dropdown("form")
        self.ablated = widgets.HTML()
        self.set = dropdown("set", list(self._sets))
        self.layer = dropdown("layer", list(range(shape.n_layers)))
        self.file = widgets.Text(value=_EXPORT, description="file", layout=_WIDE)
        self.buttons = {
            "undo": _button("undo", lambda: undo(), "Take back the latest change of the ablated neurons"),
            "none": _button("none", lambda: self._ablate(frozenset()), "Bring all neurons back"),
            "export": _button("export", self._export, "Write the ablated neurons to the file, for NeuronSet.load"),
            "set": _button("ablate set", self._ablate_set, "Ablate the set too"),
            "layer": _button("ablate layer", self._ablate_layer, "Ablate all neurons of the layer too"),
        }
        self._observe()
        ablation = [widgets.HBox([self.buttons[name] for name in ("undo", "none", "export")])]
        ablation += [self.set, self.buttons["set"]] if self._sets else []
        ablation += [self.layer, self.buttons["layer"], self.file]
        asked = [self.record, self.languages, self.language, self.template, self.form]
        self.box = widgets.VBox(
            [*asked, self.source, self.other, widgets.HTML("<b>Ablated neurons</b>"), self.ablated, *ablation],
            layout={"width": "305px", "min_width": "305px"},
        )

    def show(self, state: ExplorerState) -> None:
        """Show a state without changing it."""
        self._state, self._is_showing = state, True
        try:
            offer(self.record, [(self._name(one.id, state), one.id) for one in self._questions.records], state.record)
            others = self._questions.others_of(state.record)
            offer(self.other, [(self._name(one, state), one) for one in others] or [("none", "")], state.other)
            self.languages.value = state.languages
            offer(self.language, _named(state.languages), state.language)
            offer(self.source, _named(state.languages), state.source)
            n_templates = max(state.template + 1, self._questions.n_templates(state.record, state.languages))
            offer(self.template, list(range(n_templates)), state.template)
            forms = [("its own", ""), *_named(state.languages)]
            offer(self.form, forms, state.form)
            self.ablated.value = self._summary(state.ablated)
        finally:
            self._is_showing = False

    def _observe(self) -> None:
        for name in ("record", "other", "languages", "language", "source", "template", "form"):
            getattr(self, name).observe(lambda event, name=name: self._say(**{name: event["new"]}), "value")

    def _say(self, **changes: Any) -> None:
        if not self._is_showing and self._state is not None:
            if changes.get("languages") == ():
                self.show(self._state)
            else:
                self._change(**changes)

    def _name(self, name: str, state: ExplorerState) -> str:
        """Name a record: its id, and only where names may be shown, whose it is."""
        if not state.reveal:
            return name
        record = self._questions.record(name)
        return f"{name}: {record.subject}, {record.value}"

    def _ablate(self, neurons: frozenset[Neuron]) -> None:
        self._change(ablated=neurons)

    def _ablate_set(self) -> None:
        if self._state is not None and self.set.value is not None:
            self._ablate(self._state.ablated | self._sets[self.set.value].neurons)

    def _ablate_layer(self) -> None:
        if self._state is not None:
            layer = self.layer.value
            self._ablate(self._state.ablated | {(layer, index) for index in range(self._shape.d_mlp)})

    def _export(self) -> None:
        if self._state is None:
            return
        path, shape = Path(self.file.value.strip() or _EXPORT).expanduser(), self._shape
        try:
            if not self._state.ablated:
                raise ValueError("no neuron is ablated")
            NeuronSet(self._state.ablated, shape.n_layers, shape.d_mlp, shape.model).save(path)
        except (OSError, ValueError) as error:
            self.ablated.value = f"{self._summary(self._state.ablated)}<br>not written: {escape(str(error))}"
        else:
            self.ablated.value = f"{self._summary(self._state.ablated)}<br>written to {escape(path.name)}"

    def _summary(self, neurons: frozenset[Neuron]) -> str:
        """Say how many neurons are ablated, and in which layers."""
        if not neurons:
            return "none"
        chosen = NeuronSet(neurons, self._shape.n_layers, self._shape.d_mlp)
        layers = list(chosen.by_layer())
        where = ", ".join(map(str, layers[:8])) + (", …" if len(layers) > 8 else "")
        text = f"{counted(len(chosen), 'neuron', 'neurons')} in layer{'s' if len(layers) > 1 else ''} {where}"
        if whole := chosen.whole_layers():
            text += f"<br>the whole MLP is gone in layer{'s' if len(whole) > 1 else ''} {', '.join(map(str, whole))}"
        return text


def check_sets(sets: Mapping[str, NeuronSet], shape: NeuronSet) -> dict[str, NeuronSet]:
    """Return the sets that are not empty, after a check that they are of this model."""
    for chosen in sets.values():
        chosen.check_model(shape.model, shape.n_layers, shape.d_mlp)
    return {name: chosen for name, chosen in sets.items() if len(chosen)}


def _named(codes: Any) -> list[tuple[str, str]]:
    """Name languages by their packs, which know more of them than the figures have colours for."""
    return [(f"{packs.find_language(code).name} ({code})", code) for code in codes]


def dropdown(name: str, options: Any = ()) -> widgets.Dropdown:
    """Make a choice as wide as the controls."""
    return widgets.Dropdown(options=options, description=name, layout=_WIDE, style={"description_width": "72px"})


def _button(name: str, act: Callable[[], None], tooltip: str) -> widgets.Button:
    layout = _BUTTON if len(name) < 8 else {"width": "120px"}
    button = widgets.Button(description=name, tooltip=tooltip, layout=layout)
    button.on_click(lambda _: act())
    return button


def offer(dropdown: widgets.Dropdown, options: list[Any], value: Any) -> None:
    """Set options and value; unchanged options are left alone, because setting them resets the value."""
    if list(dropdown.options) != options:
        dropdown.options = options
    known = [option[1] if isinstance(option, tuple) else option for option in options]
    check_choice(dropdown.description, value, known)
    dropdown.value = value
