"""Look at what a run saved, without a model: its figures, and one record at a time."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from xlmech.explorer import draw, tables
from xlmech.explorer.panels.base import note
from xlmech.explorer.panels.plot import Plot, plotly_library
from xlmech.explorer.state import ExplorerState
from xlmech.figures.saving import title_of
from xlmech.figures.wording import language_name, plain, rows_of
from xlmech.lens.logit import LensResult
from xlmech.report.run_results import RunResults
from xlmech.report.sections import draw_sections

_RECORD_LENS = "One record: lens"


class SavedRun:
    """A widget on the results of a run; a notebook shows it as the last line of a cell.

    Attributes:
        results: The results.
        figures: The run's figures, by title.
        box: The widget.
    """

    def __init__(self, results: RunResults) -> None:
        self.results = results
        sections, not_drawn = draw_sections(results)
        self.figures = {title_of(one.figure): one.figure for section in sections for one in section.figures}
        self.record = widgets.Dropdown(options=_records(results), description="record", layout={"width": "330px"})
        self.shown = widgets.Dropdown(
            options=[*([_RECORD_LENS] if results.lens else []), *self.figures],
            description="figure",
            layout={"width": "640px"},
        )
        self.facts, self.notes = widgets.HTML(), widgets.HTML("".join(map(note, not_drawn)))
        self.plot = Plot()
        for choice in (self.record, self.shown):
            choice.observe(lambda _: self.refresh(), "value")
        head = f"<b>{escape(results.origin or 'results in memory')}</b>: what was saved, without the model"
        self.box = widgets.VBox(
            [widgets.HTML(head), self.record, self.facts, self.shown, self.plot.box, self.notes, plotly_library()],
            layout={"width": "100%"},
        )
        self.refresh()

    def refresh(self) -> None:
        """Draw the chosen record and figure."""
        self.facts.value = record_table(self.results, self.record.value) if self.record.value else ""
        if (figure := self._figure()) is not None:
            self.plot.show(figure)

    def _figure(self) -> go.Figure | None:
        if self.shown.value != _RECORD_LENS:
            return self.figures.get(self.shown.value)
        return record_lens(self.results.lens, self.record.value)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def record_lens(lens: LensResult | None, record: str | None) -> go.Figure | None:
    """Draw one record's lens as the explorer does; None if it was not read."""
    if lens is None or record is None:
        return None
    own = lens.readings[lens.readings.record == record]
    if own.empty:
        return None
    codes = tuple(own.query_language.unique())
    state = ExplorerState(record=record, other="", languages=codes, language=codes[0], source=codes[0])
    return draw.lens(replace(lens, readings=own.reset_index(drop=True), n_collisions=0), state)


def record_table(results: RunResults, record: str) -> str:
    """Write what was measured of one record: in which languages it was extracted, and in which form."""
    frames = [one.probes for one in (results.results.get("leakage"), results.wordings) if one is not None]  # type: ignore[attr-defined]
    own = pd.concat([frame[frame.record == record] for frame in frames]) if frames else pd.DataFrame()
    if own.empty or "extracted" not in own:
        return note("No answers of this record were saved.")
    rows = []
    for row in rows_of(own.drop_duplicates("probe")):
        words = "the value is extracted" if row.extracted else "not extracted"
        form = f"{escape(language_name(row.answer_language))}'s form" if row.answer_language else ""
        rows.append([escape(language_name(row.query_language)), str(row.template), words, form])
    attribute, group = own[["attribute", "group"]].iloc[0]
    head = f"{escape(plain(attribute))}, {escape(group)}"
    return head + tables.table(["asked in", "wording", "answer", "form"], rows)


def _records(results: RunResults) -> list[str]:
    """List the records that any result names."""
    found: dict[str, None] = {}
    for result in results.results.values():
        for name in ("probes", "readings"):
            frame = getattr(result, name, None)
            if isinstance(frame, pd.DataFrame) and "record" in frame:
                found |= dict.fromkeys(frame.record)
    return list(found)
