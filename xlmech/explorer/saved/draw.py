"""Draw what a saved run holds as Plotly figures that follow a state; no widgets."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from xlmech.explorer import draw
from xlmech.explorer.saved.state import SavedState
from xlmech.explorer.state import ExplorerState
from xlmech.figures.by_layer import leakage_per_layer
from xlmech.figures.marks import cells, heatmap
from xlmech.figures.style import INK, ORANGE, finish
from xlmech.figures.wording import label, language_name, percent, plain
from xlmech.lens.logit import LensResult

MAX_ROWS = 40
"""Records that are drawn at a time."""
NEVER, GONE, STILL, RISEN = range(4)
"""What came of a record in one language: never extracted, no longer, still, or only after."""
_SHADES = ("#F1F4F8", "#9ECAE1", "#08306B", ORANGE)
_STEPS = [(place / 4, shade) for number, shade in enumerate(_SHADES) for place in (number, number + 1)]


def shares(table: pd.DataFrame, state: SavedState, training: str, what: str) -> go.Figure:
    """Draw the matrix of kinds and languages, with what is chosen outlined.

    Args:
        table: As of `SavedRun.shares`.
        state: What is looked at.
        training: Training language, which is set in bold.
        what: Name of the measure.
    """
    kinds, codes = [str(kind) for kind in table.index], [str(code) for code in table.columns]
    values = table.to_numpy(dtype=float)
    hover = [
        [f"{_text(plain(kind))}, asked in {label(code)}<br>{_share(value)} extracted {what}" for code, value in row]
        for kind, row in zip(kinds, (zip(codes, of_kind, strict=True) for of_kind in values.tolist()), strict=True)
    ]
    trace = cells(values.tolist(), hover, low=0.0, high=1.0, title=f"extracted<br>{what}", colorbar_tickformat=".0%")
    shown = [["" if math.isnan(value) else f"{100 * value:.0f}" for value in row] for row in values.tolist()]
    trace.update(text=shown, texttemplate="%{text}", textfont_size=11)
    figure = heatmap(trace, [label(code, training) for code in codes], [_text(plain(kind)) for kind in kinds])
    figure.update_xaxes(title_text="asked in", tickangle=-35)
    _outline(figure, _places(kinds, state.kind), _places(codes, state.language), len(kinds), len(codes))
    caption = f"""Share of the questions (people: {state.group}), in percent. Click a cell to see the records behind it; click it
    again to see all."""
    when = "" if state.measure == "extracted" else f" {what}"
    return finish(
        figure,
        f"Extracted{when}, by kind of data and language",
        caption,
        height=34 * len(kinds),
        foot=110,
    )


def outcomes(
    frame: pd.DataFrame, names: Sequence[str], codes: Sequence[str], state: SavedState, *, after: str, what: str
) -> go.Figure:
    """Draw what came of each record in each language, a row per record, with the chosen row and column outlined.

    Args:
        frame: As of `SavedRun.outcomes`.
        names: Records in the order of the rows.
        codes: Languages in the order of the columns.
        state: What is looked at.
        after: Column that says what is extracted with a remedy; "" if none was measured.
        what: Name of this column.
    """
    shown = drawn_records(names, state.record)
    by_cell = {key: part for key, part in frame.groupby(["record", "query_language"], sort=False)}
    values: list[list[float]] = []
    hover: list[list[str]] = []
    for name in shown:
        row = [by_cell.get((name, code)) for code in codes]
        found = [math.nan if part is None else _outcome(part, after) for part in row]
        values.append(found)
        hover.append(
            [
                f"{_text(name)}, asked in {label(code)}<br>{_said(value, what if after else '')}"
                for code, value in zip(codes, found, strict=True)
            ]
        )
    named = ["never", f"not {what}", f"also {what}", f"only {what}"] if after else ["never", "", "extracted", ""]
    trace = cells(values, hover, low=-0.5, high=3.5, title="extracted", scale=_STEPS)
    trace.colorbar.update(
        tickvals=[n for n, name in enumerate(named) if name], ticktext=[name for name in named if name]
    )
    figure = heatmap(trace, [label(code) for code in codes], [_text(name) for name in shown])
    figure.update_xaxes(title_text="asked in", tickangle=-35)
    _outline(figure, _places(shown, state.record), [], len(shown), len(codes))
    _outline(figure, [], _places(list(codes), state.language), len(shown), len(codes), thin=True)
    left_out = f" {len(shown)} of {len(names):,}, the most extracted first." if len(shown) < len(names) else ""
    chosen = [plain(state.kind)] if state.kind else []
    chosen += [f"asked in {language_name(state.language)}"] if state.language else []
    which = f" ({', '.join(chosen)})" if chosen else ""
    caption = f"""A row per record{which}: is its value in the answer?{left_out} Click a cell to choose the record and the
    language."""
    return finish(
        figure, f"What came of {'each record' if len(shown) > 1 else 'the record'}", caption, height=20 * len(shown),
        foot=110, left=220,
    )  # fmt: skip


def layers(result: LensResult, state: SavedState) -> go.Figure:
    """Draw the answer's probability by layer and language, with the chosen language's row and the layer outlined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kind of few people has no interval, and none is drawn
        figure = leakage_per_layer(result)
    _mark_layer(mark_language(figure, state.language), state.layer)
    return draw.narrow(figure, figure.layout.margin.l)


def record_lens(result: LensResult, state: SavedState) -> go.Figure:
    """Draw one record's lens as the explorer of a live model does, with the chosen language's panel named in colour."""
    codes = tuple(result.readings.query_language.unique())
    looked_at = ExplorerState(
        record=state.record, other="", languages=codes, language=codes[0], source=codes[0], layer=state.layer
    )
    return mark_language(draw.lens(result, looked_at), state.language)


def neurons(counts: Mapping[str, Sequence[int]], state: SavedState) -> go.Figure:
    """Draw how many neurons were chosen per layer, a row for universal neurons ("") and for each language's own.

    Args:
        counts: Neurons per layer, by language.
        state: What is looked at.
    """
    codes, n_layers = list(counts), len(next(iter(counts.values())))
    names = [_set_name(code) for code in codes]
    values = [list(counts[code]) for code in codes]
    hover = [
        [f"{name}<br>layer {layer}: {n:,} neurons" for layer, n in enumerate(row)]
        for name, row in zip(names, values, strict=True)
    ]
    top = max(1, *(n for row in values for n in row))
    trace = cells(values, hover, low=0, high=top, title="neurons")
    trace.update(
        text=[[f"{n:,}" if n else "" for n in row] for row in values], texttemplate="%{text}", textfont_size=10
    )
    figure = heatmap(trace, list(map(str, range(n_layers))), names)
    figure.update_xaxes(title_text="layer", tickvals=list(range(0, n_layers, max(1, n_layers // 20))))
    figure.update_xaxes(ticktext=list(range(0, n_layers, max(1, n_layers // 20))))
    columns = [] if state.layer is None else [state.layer]
    _outline(
        figure, [place for place, code in enumerate(codes) if code == state.language], columns, len(codes), n_layers
    )
    caption = """Neurons that were chosen: a hypothesis, which the ablation tests. Click a cell to list its neurons."""
    return finish(figure, "Neurons chosen per layer", caption, height=26 * len(codes), left=160)


def mark_language(figure: go.Figure, code: str) -> go.Figure:
    """Outline a language in any of the library's figures: its row, its column, or the title of its panel."""
    if not code:
        return figure
    for axis, place, other in languages_of(figure):
        if other == code:
            ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": place - 0.48, "y1": place + 0.48, "yref": "y"}
            if axis == "x":
                ends = {"y0": 0, "y1": 1, "yref": "paper", "x0": place - 0.48, "x1": place + 0.48, "xref": "x"}
            figure.add_shape(type="rect", line={"color": ORANGE, "width": 2.5}, **ends)
    for note in figure.layout.annotations:
        if note.name != "caption" and _plain(note.text) == language_name(code):
            note.update(font={"color": ORANGE}, text=f"<b>{_plain(note.text)}</b>")
    return figure


def languages_of(figure: go.Figure) -> Iterator[tuple[str, float, str]]:
    """Yield the languages that a figure's rows, or else its columns, are named by: axis, place and code."""
    for axis in ("y", "x"):
        ticks = figure.layout[f"{axis}axis"]
        texts, places = ticks.ticktext or (), ticks.tickvals if ticks.tickvals is not None else ()
        named = [
            (axis, float(place), code) for text, place in zip(texts, places, strict=False) if (code := _code(text))
        ]
        if len(named) > 1:
            yield from named
            return


def clicked_language(figure: go.Figure, x: int, y: int) -> str:
    """Return the language whose row or column was clicked, "" if the figure has none there."""
    named = languages_of(figure)
    return next((code for axis, place, code in named if round(place) == (y if axis == "y" else x)), "")


def drawn_records(names: Sequence[str], record: str) -> list[str]:
    """Return the records that are drawn: the first ones, and the chosen one."""
    shown = list(names[:MAX_ROWS])
    return shown if record in shown or record not in names else [*shown[:-1], record]


def _code(text: str) -> str:
    """Return the code at the end of a language's name in a label, "" if it is none."""
    found = re.match(r"(?:.* )?\(?([a-z]{2,3})\)?(?:, [\d,]+)?$", _plain(text))
    return (
        found.group(1) if found and re.match(rf"{re.escape(language_name(found.group(1)))}(,|$)", _plain(text)) else ""
    )


def _plain(text: object) -> str:
    return re.sub("<[^>]+>", "", str(text)).strip()


def _set_name(code: str) -> str:
    return label(code) if code else "<b>universal</b>"


def _text(text: str) -> str:
    return escape(text, quote=False)


def _share(value: float) -> str:
    return "not asked" if math.isnan(value) else percent(value)


def _outcome(part: pd.DataFrame, after: str) -> float:
    """Say what came of one record in one language, over its wordings."""
    if part.extracted.isna().all():
        return math.nan
    was = bool(part.extracted.max() > 0)
    if not after or part[after].isna().all():
        return STILL if was else NEVER
    still = bool(part[after].max() > 0)
    return (STILL if still else GONE) if was else (RISEN if still else NEVER)


def _said(value: float, what: str) -> str:
    if math.isnan(value):
        return "not measured"
    words = {NEVER: "not extracted", GONE: f"extracted, not {what}", STILL: f"extracted, also {what}"}
    words |= {RISEN: f"only {what} extracted"}
    return words[int(value)] if what else ("extracted" if value == STILL else "not extracted")


def _places(names: Sequence[str], chosen: str) -> list[int]:
    return [place for place, name in enumerate(names) if name == chosen]


def _outline(
    figure: go.Figure, rows: Sequence[int], columns: Sequence[int], n_rows: int, n_columns: int, *, thin: bool = False
) -> None:
    """Outline a cell, or the whole row or column where one of the two is not chosen."""
    if not rows and not columns:
        return
    y0, y1 = (rows[0] - 0.5, rows[0] + 0.5) if rows else (-0.5, n_rows - 0.5)
    x0, x1 = (columns[0] - 0.5, columns[0] + 0.5) if columns else (-0.5, n_columns - 0.5)
    edge = {"color": INK if thin else ORANGE, "width": 1.5 if thin else 2.5}
    figure.add_shape(type="rect", x0=x0, x1=x1, y0=y0, y1=y1, line=edge)


def _mark_layer(figure: go.Figure, layer: int | None) -> None:
    if layer is not None:
        figure.add_vline(layer, line={"color": ORANGE, "width": 1.5, "dash": "dot"})
