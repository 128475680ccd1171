"""Panels of a saved run's explorer: matrix, records, layers, neurons, and the run's own figures."""

from __future__ import annotations

from abc import abstractmethod

import ipywidgets as widgets

from xlmech.explorer import tables
from xlmech.explorer.draw import narrow
from xlmech.explorer.panels.base import Change, Tab, note
from xlmech.explorer.panels.plot import Click, Plot
from xlmech.explorer.saved import draw
from xlmech.explorer.saved.code import SavedPanel
from xlmech.explorer.saved.run import SavedRun
from xlmech.explorer.saved.state import SavedState
from xlmech.figures.wording import language_name, ordered, rows_of

N_LISTED = 30
"""Neurons that are listed at a time."""


class RunPanel(Tab[SavedState]):
    """One panel of the explorer of a saved run."""

    def __init__(self, run: SavedRun, change: Change) -> None:
        super().__init__(change)
        self.run = run
        self.plot = Plot(self._on_click)
        self.box.children = (self.message, self.plot.box)

    @property
    @abstractmethod
    def code(self) -> SavedPanel:
        """Whose numbers the lines of Python give that stand below."""

    @abstractmethod
    def _on_click(self, click: Click) -> None:
        """Choose what was clicked."""


class Matrix(RunPanel):
    """The share of questions that is extracted, by kind of data and language."""

    title = "Matrix"
    code: SavedPanel = "matrix"

    def __init__(self, run: SavedRun, change: Change) -> None:
        super().__init__(run, change)
        self.measure = widgets.ToggleButtons(
            options=[(title, name) for name, title in run.measures.items()], style={"button_width": "120px"}
        )
        self.measure.observe(lambda event: self.change(measure=event["new"]), "value")
        self.box.children = (self.message, self.measure, self.plot.box)

    def draw(self, state: SavedState) -> None:
        """Draw the matrix."""
        self.measure.value = state.measure
        table = self.run.shares(state.measure, group=state.group)
        self.plot.show(draw.shares(table, state, self.run.training, self.run.measures[state.measure]))

    def _on_click(self, click: Click) -> None:
        if (state := self._drawn) is None:
            return
        table = self.run.shares(state.measure, group=state.group)
        chosen = {"kind": str(table.index[click.y]), "language": str(table.columns[click.x])}
        if chosen == {"kind": state.kind, "language": state.language}:
            chosen = {"kind": "", "language": ""}
        self.change(**chosen)


class Records(RunPanel):
    """The records behind what is chosen, and what came of each in every language."""

    title = "Records"
    code: SavedPanel = "records"

    def draw(self, state: SavedState) -> None:
        """Draw a row per record."""
        names, codes = self._named(state)
        if not names:
            raise ValueError(f"the run asked about no {state.group} records of this kind in this language")
        after = next((name for name in self.run.measures if name != "extracted"), "")
        after = after if state.measure == "extracted" else state.measure
        frame = self.run.outcomes(group=state.group, kind=state.kind)
        what = self.run.measures[after] if after else ""  # type: ignore[index]
        self.plot.show(draw.outcomes(frame, names, codes, state, after=after, what=what))

    def _named(self, state: SavedState) -> tuple[list[str], list[str]]:
        table = self.run.records(group=state.group, kind=state.kind, language=state.language)
        frame = self.run.outcomes(group=state.group, kind=state.kind)
        return table.record.tolist(), ordered(frame.query_language, self.run.training)

    def _on_click(self, click: Click) -> None:
        if self._drawn is not None:
            names, codes = self._named(self._drawn)
            self.change(record=draw.drawn_records(names, self._drawn.record)[click.y], language=codes[click.x])


class Layers(RunPanel):
    """The lens of the records of a kind, a row per language, and of the record that is looked at."""

    title = "Layers"

    def __init__(self, run: SavedRun, change: Change) -> None:
        super().__init__(run, change)
        self.lens = Plot(lambda click: self.change(layer=click.x))
        self.missing = widgets.HTML()
        self.box.children = (self.message, self.missing, self.lens.box, self.plot.box)

    @property
    def code(self) -> SavedPanel:
        """The record's, or that of all records of the kind if the record was not read."""
        return "layers" if self.missing.value else "record_lens"

    def draw(self, state: SavedState) -> None:
        """Draw both figures; in the place of a record that was not read, say so."""
        self.plot.show(draw.layers(self.run.lens(kind=state.kind), state))
        try:
            self.lens.show(draw.record_lens(self.run.lens(record=state.record), state))
            self.missing.value, self.lens.box.layout.display = "", None
        except ValueError as error:
            self.missing.value, self.lens.box.layout.display = note(str(error)), "none"

    def _on_click(self, click: Click) -> None:
        if self._drawn is not None and self.plot.figure is not None:
            self.change(language=draw.clicked_language(self.plot.figure, click.x, click.y), layer=click.x)


class Neurons(RunPanel):
    """The neurons that were chosen, by language and layer, and a list of those that are looked at."""

    title = "Neurons"
    code: SavedPanel = "neurons"

    def __init__(self, run: SavedRun, change: Change) -> None:
        super().__init__(run, change)
        self.list = widgets.HTML()
        self.box.children = (self.message, self.plot.box, self.list)

    def draw(self, state: SavedState) -> None:
        """Draw the counts, and list the neurons."""
        self.plot.show(draw.neurons(self.run.neurons_per_layer(), state))
        frame = self.run.neurons(language=state.language, layer=state.layer)
        shown = frame.head(N_LISTED)
        codes = list(frame.columns[3:])
        head = ["layer", "neuron", "score", *(f"<b>{code}</b>" if code == state.language else code for code in codes)]
        rows = [
            [str(row.layer), str(row.neuron), f"{row.score:.3f}", *(f"{value:.3f}" for value in values)]
            for row, values in zip(rows_of(shown), shown[codes].to_numpy().tolist(), strict=True)
        ]
        own = state.language or (codes[0] if len(codes) == 1 else "")
        which = f"{language_name(own)}'s own neurons" if own else "universal neurons"
        where = "" if state.layer is None else f" in layer {state.layer}"
        count = f"{len(shown)} of {len(frame):,}" if len(shown) < len(frame) else f"{len(frame):,}"
        note_of = f"<b>{count} {which}{where}</b>; per language: private minus public attribution"
        self.list.value = note_of + (tables.table(head, rows) if rows else "")

    def _on_click(self, click: Click) -> None:
        self.change(language=list(self.run.neurons_per_layer())[click.y], layer=click.x)


class Figures(RunPanel):
    """The run's own figures, each drawn when it is chosen, with the language that is looked at outlined."""

    title = "Figures of the run"
    code: SavedPanel = "figure"

    def __init__(self, run: SavedRun, change: Change) -> None:
        super().__init__(run, change)
        self.shown = widgets.Dropdown(options=run.figures, description="figure", layout={"width": "420px"})
        self.shown.observe(lambda _: self.again(), "value")
        self.box.children = (self.message, self.shown, self.plot.box)

    def draw(self, state: SavedState) -> None:
        """Draw the chosen figure."""
        if self.shown.value is None:
            raise ValueError("the run has no results that are drawn")
        figure = self.run.figure(self.shown.value)
        margin = figure.layout.margin
        self.plot.show(draw.mark_language(narrow(figure, margin.l, margin.r), state.language))

    def _on_click(self, click: Click) -> None:
        if self.plot.figure is not None and (code := draw.clicked_language(self.plot.figure, click.x, click.y)):
            self.change(language=code)


RUN_PANELS: tuple[type[RunPanel], ...] = (Matrix, Records, Layers, Neurons, Figures)
