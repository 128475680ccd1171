"""Where information flows: similarity of languages, depths of a lens, direct logit attribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.checks import check_choice
from xlmech.figures.findings import in_languages, in_none, layer_runs
from xlmech.figures.line_labels import label_lines
from xlmech.figures.marks import cells, line_with_band, panels
from xlmech.figures.style import BLUE, DIVERGING, GREY, GRID, INK, ORANGE, faded, finish, readable
from xlmech.figures.wording import label, left_out, number, ordered, ranged, rows_of, with_interval

if TYPE_CHECKING:
    from xlmech.lens.direct_logit import DirectLogitResult
    from xlmech.lens.logit import LensResult
    from xlmech.lens.similarity import SimilarityResult

_MEASURES = {"cosine": "cosine", "cka": "linear CKA"}
_POSITIONS = {"subject_last": "subject's last token", "last": "last token (predicts the answer)"}
_EVENTS = {
    "plant peak": ("training-language form peaks", ORANGE, "diamond"),
    "overtaking": ("query-language form overtakes it", INK, "line-ns-open"),
    "query peak": ("query-language form peaks", BLUE, "circle"),
}


def similarity(result: SimilarityResult) -> go.Figure:
    """Draw the similarity of languages per layer, a row per measure and a column per position, above the mismatched null."""
    measures, positions = list(result.pooled.measure.unique()), list(result.pooled.position.unique())
    titles = [f"{_MEASURES[measure]}, {_POSITIONS[position]}" for measure in measures for position in positions]
    figure = make_subplots(
        len(measures), len(positions), subplot_titles=titles, shared_xaxes=True, shared_yaxes="rows",
        horizontal_spacing=0.03, vertical_spacing=0.13,
    )  # fmt: skip
    for row, measure in enumerate(measures, start=1):
        for col, position in enumerate(positions, start=1):
            pairs, pooled = (
                frame[(frame.measure == measure) & (frame.position == position)]
                for frame in (result.pairs, result.pooled)
            )
            _draw_similarity(figure, pairs, pooled, row=row, col=col)
        figure.update_yaxes(title_text=_MEASURES[measure], row=row, col=1)
    figure.update_xaxes(title_text="layer", row=len(measures)).update_annotations(font_size=13)
    figure.update_yaxes(range=[-0.05, 1.05])
    names = {"mean over pairs": BLUE, "one pair of languages": faded(BLUE, 0.55), "mismatched people": GREY}
    caption = f"""Where the blue band lies above the grey area, languages share more than mismatched people do. On
    {result.n_subjects:,} people and {result.n_probes:,} questions per language; band: 95 % interval of the mean over pairs,
    resampling people."""
    details = f"""resid_post of the same question about the same person in two languages ({", ".join(result.languages)}). Cosine
    after each language's mean is subtracted; linear CKA. Grey area: up to the {100 * result.null_quantile:g} % quantile of the
    same mean with every person mismatched. At the subject's own token the shared name alone does that; CKA's null is high with
    few people."""
    finish(
        figure, _shared(result.pooled), caption, details=details, height=230 * len(measures), head=84, left=70, right=160,
        need=640,
    )  # fmt: skip
    return label_lines(figure, names)


def _shared(pooled: pd.DataFrame) -> str:
    """State in which layers languages share a representation: the mean's interval lies above the null."""
    positions, measures = list(pooled.position.unique()), list(pooled.measure.unique())
    position = "last" if "last" in positions else positions[0]
    measure = "cosine" if "cosine" in measures else measures[0]
    part = pooled[(pooled.position == position) & (pooled.measure == measure)]
    shared = part.layer[part.low > part.null]
    where = f"{'last token' if position == 'last' else _POSITIONS[position]}, {_MEASURES[measure]}"
    if shared.empty:
        return f"In no layer do languages share more than mismatched people ({where})"
    if len(shared) == len(part):
        return f"In every layer languages share more than mismatched people ({where})"
    return f"In {layer_runs(shared)} languages share more than mismatched people ({where})"


def _draw_similarity(figure: go.Figure, pairs: pd.DataFrame, pooled: pd.DataFrame, *, row: int, col: int) -> None:
    place = {"row": row, "col": col}
    figure.add_scatter(
        x=pooled.layer.tolist(), y=pooled.null, mode="lines", fill="tozeroy", fillcolor=faded(GREY, 0.25),
        line={"color": GREY, "dash": "dot", "width": 1}, name="mismatched people (null)", legendgroup="null",
        showlegend=False, hovertext=[f"null, layer {r.layer}: {r.null:.3f}" for r in rows_of(pooled)],
        hoverinfo="text", **place,
    )  # fmt: skip
    for (a, b), part in pairs.groupby(["language_a", "language_b"], sort=False):
        figure.add_scatter(
            x=part.layer, y=part.value, mode="lines", line={"color": faded(BLUE, 0.3), "width": 1},
            name="one pair of languages", legendgroup="pair", showlegend=False,
            hovertext=_similarity_hover(f"{a}-{b}", part), hoverinfo="text", **place,
        )  # fmt: skip
    hover = _similarity_hover("all pairs", pooled)
    line_with_band(figure, pooled, "mean over pairs", BLUE, hover=hover, alpha=0.25, width=2.5, place=place)


def _similarity_hover(languages: str, frame: pd.DataFrame) -> list[str]:
    return [
        f"{languages}, layer {row.layer}<br>{with_interval(row.value, row.low, row.high)}<br>null {row.null:.3f}"
        for row in rows_of(frame)
    ]


def depths(
    result: LensResult | Sequence[LensResult], *, reading: Literal["first_token", "whole_value"] = "first_token"
) -> go.Figure:
    """Draw the layers at which the answer's forms peak and the query form overtakes, a panel per lens (raw, tuned).

    Raises:
        ValueError: Whole values were not read.
    """
    results = [*result] if isinstance(result, Sequence) else [result]
    frames = [one.depths(reading) for one in results]
    training = results[0].plant_language
    queries = ordered({code for frame in frames for code in frame.query_language}, training)
    titles = [f"{one.lens} lens ({one.component})" for one in results]
    figure, _ = panels(titles, len(titles), spacing=0.03)
    last = max(int(one.readings.layer.max()) for one in results)
    right = last + 0.12 * (last + 1)
    for col, frame in enumerate(frames, start=1):
        for lane, event in enumerate(_EVENTS):
            _draw_event(figure, frame[frame.event == event], event, queries, lane=lane, edge=right, col=col)
    figure.update_xaxes(range=[-0.6, right], dtick=2)
    figure.update_yaxes(
        tickvals=list(range(len(queries))), ticktext=[label(code, training) for code in queries],
        range=[len(queries) - 0.5, -0.5],
    )  # fmt: skip
    direct = _label_events(figure, frames[0], queries, (-0.6, right))
    for row in range(1, len(queries)):
        figure.add_hline(row - 0.5, line_color=GRID, line_width=1)
    figure.update_yaxes(title_text="query language", col=1)
    n_people = frames[0].groupby("query_language").n_subjects.first()
    caption = f"""A diamond left of its circle: the training language's form comes first. On
    {ranged(n_people, "person", "people")} per row; whiskers: 95 % interval, resampling people."""
    details = f"""Layer at which the mean probability of each form of the answer is highest (on the right: that probability), and
    from which on the query-language form's stays above the training-language form's. No tick: the training-language form was
    never ahead by 0.02, or still is at the last layer; the training language ({training or "unknown"}) has one form only."""
    return finish(
        figure, _order(frames[0]), caption, details=details, height=64 * len(queries), legend=not direct,
        head=84 if direct else 112, need=200 + (_LABEL_WIDTH if direct else 240) * len(titles),
    )  # fmt: skip


_LABEL_WIDTH = 460
"""Of a panel in which the names of events take less than half, px."""


def _label_events(figure: go.Figure, frame: pd.DataFrame, queries: list[str], ends: tuple[float, float]) -> bool:
    """Write the names of the events on the left of their marks, in the first row of the first panel that has room for all.

    Returns:
        Whether there is such a row.
    """
    frame = frame[frame.event.isin(list(_EVENTS)) & frame.layer.notna()]
    drawn = set(frame.event)
    room = ends[0] + 0.46 * (ends[1] - ends[0])
    for row, query in enumerate(queries):
        part = frame[frame.query_language == query]
        if set(part.event) == drawn and bool((part[["layer", "low"]] > room).all(axis=None)):
            for mark in rows_of(part):
                name, shade, _ = _EVENTS[mark.event]
                at = {"x": min(mark.layer, mark.low), "y": row + 0.27 * (list(_EVENTS).index(mark.event) - 1)}
                look = {"text": name, "font": {"color": readable(shade), "size": 12}, "showarrow": False}
                figure.add_annotation(**at, **look, xanchor="right", xshift=-10, row=1, col=1)
            return True
    return False


def _order(frame: pd.DataFrame) -> str:
    """State in how many languages the training language's form peaks first: the intervals of the two layers do not overlap."""
    plant, query = (frame[frame.event == event].set_index("query_language") for event in ("plant peak", "query peak"))
    asked = [code for code in plant.index if not math.isnan(plant.layer[code])]
    first = [code for code in asked if plant.high[code] < query.low[code]]
    if not asked:
        return f"The answer's form peaks {_peaks(query)}"
    if not first:
        return "No language's own form peaks later than the training language's beyond chance"
    return f"The training language's form peaks before the query language's {in_languages(first, asked)}"


def _peaks(query: pd.DataFrame) -> str:
    low, high = query.layer.min(), query.layer.max()
    return f"at layer {low:.0f}" if low == high else f"at layers {low:.0f} to {high:.0f}"


def _draw_event(
    figure: go.Figure, part: pd.DataFrame, event: str, queries: list[str], *, lane: int, edge: float, col: int
) -> None:
    name, colour, symbol = _EVENTS[event]
    y = [queries.index(code) + 0.27 * (lane - 1) for code in part.query_language]
    hover = [
        f"asked in {r.query_language}<br>{name}: layer {_layer(r.layer)} [{_layer(r.low)}, {_layer(r.high)}]<br>"
        f"probability there {r.prob:.3f}; happens in {number(r.share)} % of resamples"
        for r in rows_of(part)
    ]
    whiskers = {"array": part.high - part.layer, "arrayminus": part.layer - part.low, "color": colour, "width": 3}
    marker = {"color": colour, "symbol": symbol, "size": 11, "line": {"color": colour, "width": 3}}
    figure.add_scatter(
        x=part.layer, y=y, error_x=whiskers | {"thickness": 1.3}, mode="markers", marker=marker, name=name,
        legendgroup=event, showlegend=col == 1, hovertext=hover, hoverinfo="text", row=1, col=col,
    )  # fmt: skip
    if event != "overtaking":
        for height, prob in zip(y, part.prob, strict=True):
            text = {"text": f"{prob:.2f}", "font": {"color": colour, "size": 11}, "showarrow": False}
            figure.add_annotation(x=edge, y=height, **text, xanchor="right", row=1, col=col)


def direct_logit(result: DirectLogitResult, *, form: str = "query - plant") -> go.Figure:
    """Draw the mean term of each layer's attention and MLP, a row per query language.

    Args:
        result: What to draw.
        form: `query`, `plant` or `query - plant` (what turns the answer from one language into the other).

    Raises:
        ValueError: The result has no such form.
    """
    frame = result.summary()
    check_choice("form", form, sorted(set(frame.form)))
    frame = frame[(frame.form == form) & frame.component.isin(["attn_out", "mlp_out"])]
    queries, layers = ordered(frame.query_language), list(range(result.n_layers))
    figure, _ = panels(["attention output", "MLP output"], 2, spacing=0.03)
    top = float(frame.value.abs().max())
    for col, component in enumerate(("attn_out", "mlp_out"), start=1):
        rows = {(row.query_language, row.layer): row for row in rows_of(frame[frame.component == component])}
        table = [[rows.get((query, layer)) for layer in layers] for query in queries]
        values = [[getattr(row, "value", math.nan) for row in line] for line in table]
        hover = [[_term(component, row) for row in line] for line in table]
        trace = cells(
            values, hover, low=-top, high=top, title="logit", scale=DIVERGING, x=layers, y=list(map(label, queries))
        )
        figure.add_trace(trace.update(showscale=col == 2), row=1, col=col)
    figure.update_xaxes(showgrid=False, dtick=2)
    figure.update_yaxes(autorange="reversed", showgrid=False).update_yaxes(title_text="query language", col=1)
    figure.update_layout(plot_bgcolor=GRID)
    n_people = result.contributions.groupby("query_language").subject.nunique()[queries]
    name = {
        "query - plant": "the query language's form against the training language's",
        "plant": "the training language's form",
    }.get(form, "the query language's form")
    what = "Difference of the two forms' terms" if form == "query - plant" else f"Term of {name}"
    caption = f"""Blue writes it, orange writes against it. On {ranged(n_people, "person", "people")} per row; hover for the
    95 % interval over people."""
    shared = left_out(result.n_collisions, "question", "questions", "the two forms share the first token")
    details = f"""{what} (first token, less the mean over the vocabulary). {shared} What a layer does through later
    layers is not in it."""
    title = _strongest(frame, name)
    return finish(
        figure,
        title,
        caption,
        details=details,
        height=40 * len(queries),
        head=84,
        left=130,
        need=190 + 28 * len(layers),
    )


def _strongest(frame: pd.DataFrame, name: str) -> str:
    """State which layer and component writes the form most, in how many languages; its interval lies above 0 there."""
    clear = frame[frame.low > 0].sort_values("value", kind="stable").drop_duplicates("query_language", keep="last")
    asked = frame.query_language.unique()
    if clear.empty:
        return f"No layer works for {name} beyond chance {in_none(list(asked))}"
    sizes = clear.groupby(["component", "layer"]).size().rename("n").reset_index()
    component, layer, _ = rows_of(sizes.nlargest(1, "n"))[0][1:]
    found = clear.query_language[(clear.component == component) & (clear.layer == layer)]
    what = "attention" if component == "attn_out" else "MLP"
    return f"The {what} of layer {layer} does most for {name}, {in_languages(list(found), list(asked))}"


def _term(component: str, row: Any) -> str:
    if row is None:
        return "not measured"
    return f"{row.query_language}, {component} of layer {row.layer}<br>{with_interval(row.value, row.low, row.high)}"


def _layer(layer: float) -> str:
    return "none" if math.isnan(layer) else f"{layer:g}"
