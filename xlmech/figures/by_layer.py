"""The logit lens: in which layer which language's form of the answer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from xlmech.figures.marks import cells, heatmap, line_with_band, panels
from xlmech.figures.style import GREY, INK, LANGUAGES, SETS, colour, finish
from xlmech.figures.wording import bold_note, counts, label, masked, ordered, plain, rows_of, with_interval

if TYPE_CHECKING:
    from xlmech.lens.logit import LensResult

_FORMS = {"query": "query-language form", "plant": "training-language form", "other": "likeliest other form"}


def lens(result: LensResult) -> go.Figure:
    """Draw the mean first-token probability per layer and form of the answer, a panel per query language.

    Probabilities from 0 to 1. What is not read: later tokens, and anything the model's own unembedding cannot yet
    read in early layers.
    """
    frame = result.summary().rename(columns={"prob": "value"})
    training = result.plant_language
    queries = ordered(frame.query_language, training)
    figure, places = panels([label(code, training) for code in queries], 5, gap=0.3)
    training_colour = colour(training) if training in LANGUAGES else SETS[2]
    looks = {"query": (INK, "solid"), "plant": (training_colour, "dash"), "other": (GREY, "dot")}
    for query, place in zip(queries, places, strict=True):
        for rank, (form, (shade, dash)) in enumerate(looks.items(), start=1):
            part = frame[(frame.query_language == query) & (frame.form == form)].sort_values("layer")
            if len(part):
                name = _FORMS[form]
                hover = [
                    f"{label(query)}, layer {row.layer}<br>{name} {with_interval(row.value, row.low, row.high)}"
                    for row in rows_of(part)
                ]
                line_with_band(figure, part, name, shade, dash=dash, hover=hover, rank=rank, place=place)
    top = 1.05 * max(0.05, frame.value.max(), frame.high.max())
    figure.update_xaxes(range=[frame.layer.min() - 0.3, frame.layer.max() + 0.3], nticks=5).update_yaxes(range=[0, top])
    figure.update_yaxes(title_text="probability (0 to 1)", col=1)
    crossing = """A training-language line that rises before the query-language line shows the answer found in
    the language in which it was learnt; the training language's own panel has no such line."""
    caption = f"""The residual stream after each layer, read through the model's own unembedding, on
    {_counts(result)} per panel ({result.n_collisions} left out: their two forms share the first token). Bands:
    95 % interval over people. {"" if queries == [training] else crossing} {bold_note(queries, training)}"""
    title = "Logit lens: mean probability of the answer's first token, by layer"
    return finish(figure, title, caption, height=200 * places[-1]["row"], legend=True, head=106)


def leakage_per_layer(result: LensResult) -> go.Figure:
    """Draw the probability of the answer's first token in either language's form, by layer and query language.

    From 0 to 1: the sum of two means. It is not the extraction rate, which needs the whole answer.
    """
    frame = result.summary()
    queries, layers = ordered(frame.query_language, result.plant_language), sorted(frame.layer.unique())
    rows = {(row.query_language, row.layer, row.form): row for row in rows_of(frame) if not math.isnan(row.prob)}
    likeliest = _likeliest(result)
    values: list[list[float]] = []
    hover: list[list[str]] = []
    for query in queries:
        forms = [[row for form in ("query", "plant") if (row := rows.get((query, layer, form)))] for layer in layers]
        values.append([sum(row.prob for row in cell) if cell else math.nan for cell in forms])
        hover.append(
            [
                _hover(query, layer, cell) + likeliest.get((query, layer), "")
                for layer, cell in zip(layers, forms, strict=True)
            ]
        )
    top = max((value for row in values for value in row if value > 0), default=1.0)
    trace = cells(values, hover, low=0, high=top, title="probability<br>(0 to 1)")
    figure = heatmap(trace, list(map(str, layers)), [label(code, result.plant_language) for code in queries])
    figure.update_xaxes(title_text="layer").update_yaxes(title_text="query language")
    caption = f"""Sum of the mean probabilities of the query-language and the training-language form (see the lens), on
    {_counts(result)} per row: how ready the answer is after each layer, in whichever of the two forms. The scale ends at the
    highest cell; hover for both forms, their 95 % intervals over people, and the likeliest record. A low value in an early
    layer is no proof that the answer is absent there. Grey: not measured. {bold_note(queries, result.plant_language)}"""
    title = "Leakage per layer: probability of the answer's first token in either form"
    return finish(figure, title, caption, height=32 * len(queries))


def _likeliest(result: LensResult) -> dict[tuple[str, int], str]:
    """Return (query language, layer) -> the masked record whose form is likeliest there, and which form."""
    frame = result.readings[result.readings.form.isin(["query", "plant"])]
    if result.positions == "all":
        frame = frame[frame.position == frame.groupby("probe").position.transform("max")]
    frame = frame[frame.prob.notna()]
    best = frame.loc[frame.groupby(["query_language", "layer"]).prob.idxmax()]
    return {
        (row.query_language, row.layer): f"<br>likeliest: {masked(row.record)} ({escape(plain(row.attribute))}), "
        f"form in {label(row.form_language)}, {row.prob:.3f}"
        for row in rows_of(best)
    }


def _counts(result: LensResult) -> str:
    by_language = result.readings.groupby("query_language")
    return counts(by_language.agg(n_subjects=("subject", "nunique"), n_probes=("probe", "nunique")))


def _hover(query: str, layer: int, forms: Sequence[Any]) -> str:
    total = f"either form {sum(row.prob for row in forms):.3f}" if forms else "not measured"
    lines = [f"{_FORMS[row.form]} {with_interval(row.prob, row.low, row.high)}" for row in forms]
    return "<br>".join([f"asked in {label(query)}, layer {layer}", total, *lines])
