"""The logit lens: in which layer which language's form of the answer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import heatmap
from xlmech.figures.style import (
    GREY,
    INK,
    LANGUAGES,
    SETS,
    bold_note,
    colour,
    counts,
    faded,
    finish,
    label,
    masked,
    ordered,
    rows_of,
    with_interval,
)

if TYPE_CHECKING:
    from xlmech.lens.logit import LensResult

_FORMS = {"query": "query-language form", "plant": "plant-language form", "other": "likeliest other form"}
_COLUMNS = 5


def lens(result: LensResult) -> go.Figure:
    """Mean first-token probability per layer and form of the answer, a panel per query language.

    Probabilities from 0 to 1. What is not read: later tokens, and anything the model's own unembedding cannot yet
    read in early layers.
    """
    frame = result.summary()
    queries = ordered(frame.query_language, result.plant_language)
    figure = _panels([label(code, result.plant_language) for code in queries])
    for i, query in enumerate(queries):
        place = {"row": i // _COLUMNS + 1, "col": i % _COLUMNS + 1}
        for rank, form in enumerate(_FORMS):
            part = frame[(frame.query_language == query) & (frame.form == form)].sort_values("layer")
            if len(part):
                _line(figure, part, *_look(form, result), hover=label(query), rank=rank, place=place)
        figure.update_xaxes(title_text="layer" if i + _COLUMNS >= len(queries) else None, **place)
    top = 1.05 * max(0.05, frame.prob.max(), frame.high.max())
    figure.update_xaxes(range=[frame.layer.min() - 0.3, frame.layer.max() + 0.3], nticks=5).update_yaxes(range=[0, top])
    figure.update_yaxes(title_text="probability (0 to 1)", col=1).update_annotations(font_size=13)
    caption = f"""The residual stream after each layer, read through the model's own unembedding, on
    {_lens_counts(result)} per panel ({result.n_collisions} left out: their two forms share the first token). Bands:
    95 % interval, over subjects. A plant-language line that rises before the query-language line shows the
    answer found in the language it was learnt in; the plant language's own panel has no such line.
    {bold_note(queries, result.plant_language)}"""
    title = "Logit lens: mean probability of the answer's first token, by layer"
    return finish(figure, title, caption, height=200 * -(-len(queries) // _COLUMNS), legend=True, head=106)


def leakage_per_layer(result: LensResult) -> go.Figure:
    """Probability of the answer's first token in either language's form, by layer and query language.

    From 0 to 1: the sum of two means. It is not the extraction rate, which needs the whole answer.
    """
    frame = result.summary()
    queries, layers = ordered(frame.query_language, result.plant_language), sorted(frame.layer.unique())
    found = {(row.query_language, row.layer, row.form): row for row in rows_of(frame) if not math.isnan(row.prob)}
    values: list[list[float]] = []
    hover: list[list[str]] = []
    for query in queries:
        parts = [[row for form in ("query", "plant") if (row := found.get((query, layer, form)))] for layer in layers]
        values.append([sum(row.prob for row in cell) if cell else math.nan for cell in parts])
        hover.append([_layer_hover(query, layer, cell) for layer, cell in zip(layers, parts, strict=True)])
    likeliest = _likeliest(result)
    for query, texts in zip(queries, hover, strict=True):
        texts[:] = [text + likeliest.get((query, layer), "") for layer, text in zip(layers, texts, strict=True)]
    top = max((value for row in values for value in row if value > 0), default=1.0)
    names = [label(code, result.plant_language) for code in queries]
    figure = heatmap(values, map(str, layers), names, hover, top=top, unit="probability<br>(0 to 1)")
    figure.update_xaxes(title_text="layer").update_yaxes(title_text="query language")
    caption = f"""Sum of the mean probabilities of the query-language and the plant-language form (see the lens), on
    {_lens_counts(result)} per row: how ready the answer is after each layer, whichever of the two it is in. The
    scale ends at the highest cell; hover for the parts, their 95 % intervals, over subjects, and the likeliest
    record. A low figure in an early layer is no proof that the answer is absent there. Grey: not measured.
    {bold_note(queries, result.plant_language)}"""
    title = "Leakage per layer: probability of the answer's first token in either form"
    return finish(figure, title, caption, height=32 * len(queries))


def _likeliest(result: LensResult) -> dict[tuple[str, int], str]:
    """(query language, layer) -> the record of which a form is likeliest there, masked, and which form."""
    frame = result.readings[result.readings.form.isin(["query", "plant"])]
    if result.positions == "all":
        frame = frame[frame.position == frame.groupby("probe").position.transform("max")]
    frame = frame[frame.prob.notna()]
    best = frame.loc[frame.groupby(["query_language", "layer"]).prob.idxmax()]
    return {
        (
            row.query_language,
            row.layer,
        ): f"<br>likeliest: {masked(row.record)} ({escape(row.attribute.replace('_', ' '))}), "
        f"form in {label(row.form_language)}, {row.prob:.3f}"
        for row in rows_of(best)
    }


def _panels(titles: list[str]) -> go.Figure:
    """Empty panels with titles, `_COLUMNS` a row, on one scale."""
    n_rows, n_columns = -(-len(titles) // _COLUMNS), min(_COLUMNS, len(titles))
    specs: list[list[dict[str, Any] | None]] = [
        [{} if _COLUMNS * i + j < len(titles) else None for j in range(n_columns)] for i in range(n_rows)
    ]
    return make_subplots(
        n_rows, n_columns, subplot_titles=titles, shared_yaxes=True, specs=specs,
        horizontal_spacing=0.025, vertical_spacing=0.3 / n_rows,
    )  # fmt: skip


def _line(
    figure: go.Figure,
    part: pd.DataFrame,
    name: str,
    colour: str,
    dash: str,
    *,
    hover: str,
    rank: int,
    place: dict[str, int],
) -> None:
    """One form's line by `layer` with its band; in the legend once."""
    first = all(trace.name != name for trace in figure.data)
    layers = part.layer.tolist()
    figure.add_scatter(
        x=layers + layers[::-1], y=part.high.tolist() + part.low.tolist()[::-1], fill="toself",
        fillcolor=faded(colour), mode="none", hoverinfo="skip", showlegend=False, legendgroup=name, **place,
    )  # fmt: skip
    texts = [f"{hover}, layer {r.layer}<br>{name} {_probability(r)}" for r in rows_of(part)]
    figure.add_scatter(
        x=layers, y=part.prob, mode="lines", line={"color": colour, "dash": dash, "width": 2}, name=name,
        legendgroup=name, showlegend=first, legendrank=rank + 1, hovertext=texts, hoverinfo="text", **place,
    )  # fmt: skip


def _look(form: str, result: LensResult) -> tuple[str, str, str]:
    """Name, colour and dash: the plant language's form in that language's colour, the query language's in ink."""
    planted = colour(result.plant_language) if result.plant_language in LANGUAGES else SETS[2]
    colours, dashes = {"query": INK, "plant": planted, "other": GREY}, {"query": "solid", "plant": "dash"}
    return _FORMS[form], colours[form], dashes.get(form, "dot")


def _lens_counts(result: LensResult) -> str:
    by_language = result.readings.groupby("query_language")
    return counts(by_language.agg(n_subjects=("subject", "nunique"), n_probes=("probe", "nunique")))


def _layer_hover(query: str, layer: int, parts: Sequence[Any]) -> str:
    total = f"either form {sum(row.prob for row in parts):.3f}" if parts else "not measured"
    lines = [f"{_FORMS[row.form]} {_probability(row)}" for row in parts]
    return "<br>".join([f"asked in {label(query)}, layer {layer}", total, *lines])


def _probability(row: Any) -> str:
    return with_interval(row.prob, row.low, row.high)
