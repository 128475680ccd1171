"""The logit lens: in which layer, and at which token, which language's form of the answer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xlmech.checks import check_choice
from xlmech.figures.findings import in_languages, in_none
from xlmech.figures.line_labels import label_lines, panel_to_label, with_room
from xlmech.figures.marks import cells, heatmap, line_with_band, panels
from xlmech.figures.style import GREY, GRID, INK, LANGUAGES, SETS, colour, finish
from xlmech.figures.wording import (
    bold_note,
    counts,
    label,
    left_out,
    ordered,
    plain,
    record_name,
    rows_of,
    with_interval,
)
from xlmech.metrics.intervals import mean_intervals

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
    caption = f"""{"Where a line leaves 0, the answer rises." if queries == [training] else crossing} On {_counts(result)} per
    panel; bands: 95 % interval over people."""
    details = f"""The {_read(result)} after each layer, read through the model's own unembedding: mean probability of the answer's
    first token. {left_out(result.n_collisions, "question", "questions", _SHARED)} {_RISE}
    {bold_note(queries, training)}"""
    names = {_FORMS[form]: shade for form, (shade, _) in looks.items()}
    height, columns = 200 * places[-1]["row"], places[min(4, len(places) - 1)]["col"]
    panel = panel_to_label(figure, names, with_room(places), height=height)
    finish(
        figure, rise_title(result), caption, details=details, height=height, legend=panel is None,
        head=106 if panel is None else 76, right=24 if panel is None else 158, need=170 + 130 * columns,
    )  # fmt: skip
    return figure if panel is None else label_lines(figure, names, panel=panel)


_SHARED = "the two forms share the first token"
_RISE = """An answer rises from the layer on from which the interval of its probability in either form, less that in the first
layer, stays above 0."""


def _read(result: LensResult) -> str:
    return {"attn_out": "attention output", "mlp_out": "MLP output"}.get(result.component, "residual stream")


def rises(result: LensResult) -> dict[str, int | None]:
    """Find, per query language, the layer from which on the answer's probability is above that in the first layer.

    In either form, the query's and the training language's together: the 95 % interval over people of the difference, which
    stays above 0 through the last layer. None if there is no such layer.
    """
    frame = _predicting(result)
    both = frame[frame.form.isin(["query", "plant"])]
    summed = both.groupby(["query_language", "subject", "probe", "layer"], sort=False).prob.sum(min_count=1)
    found: dict[str, int | None] = {}
    for query, part in summed.groupby("query_language"):
        table = part.unstack("layer").sort_index(axis=1)
        change = table.sub(table.iloc[:, 0], axis=0)
        by_person = change.groupby("subject")
        low = mean_intervals(by_person.sum().to_numpy(), by_person.count().to_numpy(), bounds=(-1, 1)).low
        not_above = np.flatnonzero(~(low > 0))
        first = int(not_above[-1]) + 1 if len(not_above) else 0
        found[str(query)] = int(table.columns[first]) if first < len(low) else None
    return found


def rise_title(result: LensResult) -> str:
    """State from which layers on answers rise, and in how many languages."""
    found = rises(result)
    rising = {query: layer for query, layer in found.items() if layer is not None}
    if not rising:
        return f"No rise of the answer beyond chance is seen {in_none(found)}"
    first, last = min(rising.values()), max(rising.values())
    where = in_languages(rising, found)
    return f"Answers rise from layer {first} on" + (f", {where}" if first == last else f"; by layer {last} {where}")


def _predicting(result: LensResult) -> pd.DataFrame:
    """Return the readings at the position that predicts the answer."""
    frame = result.readings
    if result.positions == "all":
        frame = frame[frame.position == frame.groupby("probe").position.transform("max")]
    return frame


def leakage_per_layer(result: LensResult, *, hide_ids: bool = False) -> go.Figure:
    """Draw the probability of the answer's first token in either language's form, by layer and query language.

    From 0 to 1: the sum of two means. It is not the extraction rate, which needs the whole answer.

    Args:
        result: What to draw.
        hide_ids: Whether a code stands for the id of the likeliest record in the hover labels.
    """
    frame = result.summary()
    queries, layers = ordered(frame.query_language, result.plant_language), sorted(frame.layer.unique())
    rows = {(row.query_language, row.layer, row.form): row for row in rows_of(frame) if not math.isnan(row.prob)}
    likeliest = _likeliest(result, hide_ids=hide_ids)
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
    caption = f"""Cells high on the scale: layers after which the answer is ready to be written, in whichever of the two forms. On
    {_counts(result)} per row; hover for both forms with their 95 % intervals over people."""
    details = f"""Sum of the mean probabilities of the first tokens of the query-language and the training-language form. The
    scale ends at the highest cell; the hover label also names the likeliest record. A low value in an early layer is no proof
    that the answer is absent there. Grey: not measured. {_RISE} {bold_note(queries, result.plant_language)}"""
    title = _readiness(rises(result))
    return finish(figure, title, caption, details=details, height=32 * len(queries), need=190 + 22 * len(layers))


def _readiness(found: dict[str, int | None]) -> str:
    """State before which layer no answer rises, and from which on how many do."""
    rising = {query: layer for query, layer in found.items() if layer is not None}
    if not rising:
        return f"After no layer is the answer likelier than after the first beyond chance, {in_none(found)}"
    first, last = min(rising.values()), max(rising.values())
    return f"Before layer {first} no answer is ready; from layer {last} on answers are likelier {in_languages(rising, found)}"


def lens_positions(result: LensResult, *, form: Literal["query", "plant", "other"] = "query") -> go.Figure:
    """Draw the mean probability of one form's first token by layer and token of the prompt, a panel per query language.

    Tokens are counted back from the one that predicts the answer, because prompts differ in length; those that fewer than half
    of the prompts have are left out. What the model attends to is not in it: a form may be carried without being read here.

    Args:
        result: Read at all positions.
        form: The query language's form, the training language's, or the likeliest other.

    Raises:
        ValueError: Only the last position was read, or no reading is of that form.
    """
    if result.positions != "all":
        raise ValueError("only the last position was read; call logit_lens with positions='all'")
    frame = result.readings
    check_choice("form", form, sorted(set(frame.form) & set(_FORMS)))
    last = frame.groupby("probe").position.transform("max")
    frame = frame.assign(back=frame.position - last)
    keys = ["query_language", "layer", "back", "probe", "subject"]
    frame = frame[frame.form == form].groupby(keys)[["prob"]].max().reset_index()
    training = result.plant_language
    queries = ordered(frame.query_language, training)
    figure, places = panels([label(code, training) for code in queries], 5, gap=0.3, x_title="token")
    means = frame.groupby(["query_language", "layer", "back"]).prob.agg(["mean", "size"]).reset_index()
    widest = means.groupby("query_language")["size"].transform("max")
    means = means[2 * means["size"] >= widest]
    top = max(float(means["mean"].max()), 1e-6)
    for query, place in zip(queries, places, strict=True):
        table = means[means.query_language == query].pivot(index="layer", columns="back", values="mean").sort_index()
        hover = [
            [
                f"{label(query)}, layer {layer}, {_token(back)}<br>{_FORMS[form]} {cell:.3f}"
                for back, cell in row.items()
            ]
            for layer, row in table.iterrows()
        ]
        backs, layers = [int(back) for back in table.columns], [int(layer) for layer in table.index]
        trace = cells(
            table.to_numpy().tolist(), hover, low=0, high=top, title="probability<br>(0 to 1)", x=backs, y=layers
        )
        figure.add_trace(trace.update(showscale=query == queries[-1]), **place)
    figure.update_xaxes(showgrid=False, nticks=6).update_yaxes(showgrid=False, nticks=8)
    figure.update_yaxes(title_text="layer", col=1).update_layout(plot_bgcolor=GRID)
    caption = f"""Right end: the token that predicts the answer; cells high on the scale left of it are tokens at which the form
    is likely before it is needed. On {_counts(result)} per panel; means, without interval."""
    details = f"""Mean probability of the first token of the {_FORMS[form]}, read through the model's own unembedding after each
    layer. Tokens are counted back from the last (0), because prompts differ in length. {bold_note(queries, training)}"""
    best = rows_of(means.nlargest(1, "mean"))[0]
    title = f"The {_FORMS[form]} is likeliest {_at(int(best.back))}, after layer {best.layer:.0f} ({best.mean:.2f})"
    return finish(
        figure, title, caption, details=details, height=220 * places[-1]["row"], head=84, left=70,
        need=150 + 150 * places[min(4, len(places) - 1)]["col"],
    )  # fmt: skip


def _at(back: int) -> str:
    return "at the token that predicts the answer" if back == 0 else f"{_token(back)}, which predicts the answer"


def _token(back: Any) -> str:
    return "last token" if back == 0 else f"{-back} token{'s' * (back < -1)} before the last"


def _likeliest(result: LensResult, *, hide_ids: bool) -> dict[tuple[str, int], str]:
    """Return (query language, layer) -> the record whose form is likeliest there, by id or code, and which form."""
    frame = _predicting(result)
    frame = frame[frame.form.isin(["query", "plant"])]
    frame = frame[frame.prob.notna()]
    best = frame.loc[frame.groupby(["query_language", "layer"]).prob.idxmax()]
    return {
        (row.query_language, row.layer): f"<br>likeliest: {record_name(row.record, hide_ids=hide_ids)} "
        f"({escape(plain(row.attribute))}), "
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
