"""The explorer of a saved run: controls, what came of a record, panels and code, which follow one state; no model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd

from xlmech.data.records import Record
from xlmech.explorer import tables
from xlmech.explorer.controls import dropdown, offer
from xlmech.explorer.panels.base import note
from xlmech.explorer.panels.plot import plotly_library
from xlmech.explorer.saved.code import saved_code
from xlmech.explorer.saved.panels import RUN_PANELS, Figures
from xlmech.explorer.saved.run import SavedRun
from xlmech.explorer.saved.state import SavedState
from xlmech.figures.wording import language_name, ordered, plain, rows_of, short_name

_ALL = -1
"""Stands for no layer: a choice of None shows nothing."""
_PEOPLE = {
    "private": "private people",
    "public": "public people",
    "control": "control people",
    "others": "others, of the lens alone",
}


class SavedExplorer:
    """A widget on the results of a run; a notebook shows it as the last line of a cell.

    Attributes:
        run: What reads the numbers.
        state: What is looked at.
        panels: The panels, in the order of the tabs.
        box: The widget.
    """

    def __init__(self, run: SavedRun, state: SavedState, people: Mapping[str, Record]) -> None:
        self.run = run
        self.state = state
        self.controls = SavedControls(run, people, self.change)
        self.outcomes = widgets.HTML()
        self.panels = [panel(run, self.change) for panel in RUN_PANELS]
        self.tabs = widgets.Tab([panel.box for panel in self.panels], titles=[panel.title for panel in self.panels])
        self.tabs.observe(lambda _: self._show_panel(), "selected_index")
        self.code = widgets.HTML()
        head = f"<b>{escape(run.results.origin or 'results in memory')}</b>: what was saved, without the model"
        shown = [widgets.HTML(head), self.outcomes, self.tabs, self.code, plotly_library()]
        right = widgets.VBox(shown, layout={"width": "100%", "min_width": "0", "overflow": "hidden"})
        self.box = widgets.HBox([self.controls.box, right], layout={"width": "100%"})
        self.refresh()

    def change(self, **changes: Any) -> None:
        """Look at something else: fields of the state by name."""
        state = self.run.follow(self.state, **changes)
        if state != self.state:
            self.state = state
            self.refresh()

    def refresh(self) -> None:
        """Draw the state: controls, what came of the record, and the panel that is open."""
        self.controls.show(self.state)
        self.outcomes.value = self._record()
        self._show_panel()

    def _record(self) -> str:
        """Write what was measured of the record: in which languages it was extracted, before and after."""
        state = self.state
        if not state.record:
            return note("No record fits what is chosen.")
        frame = self.run.outcomes(group=state.group, record=state.record, wordings=True)
        kind = plain(frame.attribute.iloc[0])
        head = f"{self.controls.name(state.record, state)}: {kind}, {_PEOPLE[state.group]}"
        if frame.extracted.isna().all():
            return escape(head) + note("No answers of this record were saved.")
        names = {str(name): title for name, title in self.run.measures.items()}
        return escape(head) + record_table(frame, names, state.language, self.run.training)

    def _show_panel(self) -> None:
        panel = self.panels[self.tabs.selected_index or 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few people have no interval; a figure of the run says it in its caption
            panel.look(self.state)
        figure = str(panel.shown.value) if isinstance(panel, Figures) else ""
        pieces = [tables.copied("the record", saved_code(self.state, "record"))] if self.state.record else []
        pieces.append(tables.copied("this panel", saved_code(self.state, panel.code, figure=figure)))
        self.code.value = "".join(pieces)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


class SavedControls:
    """Widgets that show a state and change it; named like the state's fields."""

    def __init__(self, run: SavedRun, people: Mapping[str, Record], change: Callable[..., None]) -> None:
        self._run = run
        self._people = people
        self._change = change
        self._is_showing = False
        self.group, self.kind, self.language = dropdown("people"), dropdown("kind"), dropdown("language")
        self.record, self.layer = dropdown("record"), dropdown("layer")
        for name in ("group", "kind", "language", "record", "layer"):
            getattr(self, name).observe(lambda event, name=name: self._say(name, event["new"]), "value")
        everything = {"kind": "", "language": "", "layer": None}
        self.all = widgets.Button(
            description="show all", tooltip="Choose no kind, language and layer", layout={"width": "120px"}
        )
        self.all.on_click(lambda _: self._change(**everything))
        self.box = widgets.VBox(
            [self.group, self.kind, self.language, self.record, self.layer, self.all],
            layout={"width": "305px", "min_width": "305px"},
        )

    def show(self, state: SavedState) -> None:
        """Show a state without changing it."""
        self._is_showing = True
        try:
            offer(self.group, [(_PEOPLE[group], group) for group in self._run.groups], state.group)
            offer(self.kind, [("all", ""), *((plain(kind), kind) for kind in self._run.kinds(state.group))], state.kind)
            codes = [(language_name(code), code) for code in self._run.languages]
            offer(self.language, [("all", ""), *codes], state.language)
            table = self._run.records(group=state.group, kind=state.kind, language=state.language)
            names = [(self.name(record, state), record) for record in table.record]
            offer(self.record, names or [("none", "")], state.record)
            layers = sorted({*self._run.layers, *([] if state.layer is None else [state.layer])})
            offer(
                self.layer,
                [("all", _ALL), *((str(layer), layer) for layer in layers)],
                _ALL if state.layer is None else state.layer,
            )
        finally:
            self._is_showing = False

    def name(self, record: str, state: SavedState) -> str:
        """Name a record: its id, and only where names may be shown, whose it is."""
        own = self._people.get(record)
        return f"{record}: {own.subject}, {own.value}" if state.reveal and own is not None else record

    def _say(self, name: str, value: Any) -> None:
        if not self._is_showing:
            self._change(**{name: None if name == "layer" and value == _ALL else value})


def record_table(frame: pd.DataFrame, measures: Mapping[str, str], language: str, training: str = "") -> str:
    """Write what came of one record's questions, a row per language and wording; the chosen language's rows are set in bold.

    Args:
        frame: As of `SavedRun.outcomes`.
        measures: Columns of the frame, and what each is called.
        language: The chosen language.
        training: Training language, which comes first.
    """
    later = [name for name in measures if name != "extracted"]
    rows = []
    order = ordered(frame.query_language, training)
    for row in sorted(rows_of(frame), key=lambda row: order.index(row.query_language)):
        cells = [escape(language_name(row.query_language)), escape(str(row.template)), _said(row.extracted)]
        is_own = row.answer_language in ("", row.query_language)
        form = "" if not row.extracted else "the question's" if is_own else escape(short_name(row.answer_language))
        cells += [form, *(_said(getattr(row, name)) for name in later)]
        is_chosen = row.query_language == language
        rows.append([f"<b>{cell}</b>" if is_chosen else cell for cell in cells])
    head = ["asked in", "wording", "before", "in the form", *(measures[name] for name in later)]
    return tables.table(head, rows)


def _said(share: float) -> str:
    """Say whether the value was extracted; of several answers to one question, the share."""
    if pd.isna(share):
        return "not measured"
    if share in (0, 1):
        return "extracted" if share else "not extracted"
    return f"extracted in {share:.0%} of the answers"
