"""Results on the flow of information as Plotly figures: similarity, depths of a lens, direct logit attribution.

As in `figures`: nothing is measured here, the caption says on how many it rests and what its interval is, and what was
not measured stays blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.checks import check_choice
from xlmech.figures.style import GREY, INK, finish, label, ordered, rows_of, with_interval

if TYPE_CHECKING:
    from xlmech.lens.direct_logit import DirectLogitResult
    from xlmech.lens.logit import LensResult
    from xlmech.lens.similarity import SimilarityResult

_BLUE, _ORANGE = "#0072B2", "#D55E00"
_DIVERGING = ((0, _ORANGE), (0.5, "#FFFFFF"), (1, _BLUE))
_MEASURES = {"cosine": "cosine", "cka": "linear CKA"}
_POSITIONS = {"subject_last": "subject's last token", "last": "last token (predicts the answer)"}
_EVENTS = {
    "plant peak": ("plant-language form peaks", _ORANGE, "diamond"),
    "overtaking": ("query-language form overtakes it", INK, "line-ns-open"),
    "query peak": ("query-language form peaks", _BLUE, "circle"),
}


def similarity(result: SimilarityResult) -> go.Figure:
    """Similarity of languages per layer, a row per measure and a column per position, above the mismatched null."""
    measures, positions = list(result.pooled.measure.unique()), list(result.pooled.position.unique())
    cells = [(measure, place) for measure in measures for place in positions]
    titles = [f"{_MEASURES[measure]}, {_POSITIONS[place]}" for measure, place in cells]
    figure = make_subplots(
        len(measures), len(positions), subplot_titles=titles, shared_xaxes=True, shared_yaxes="rows",
        horizontal_spacing=0.03, vertical_spacing=0.13,
    )  # fmt: skip
    for number, (measure, place) in enumerate(cells):
        row, col = divmod(number, len(positions))
        of_cell = [
            frame[(frame.measure == measure) & (frame.position == place)] for frame in (result.pairs, result.pooled)
        ]
        _similarity_cell(figure, *of_cell, first=number == 0, row=row + 1, col=col + 1)
    for row, measure in enumerate(measures, start=1):
        figure.update_yaxes(title_text=_MEASURES[measure], row=row, col=1)
    figure.update_xaxes(title_text="layer", row=len(measures)).update_annotations(font_size=13)
    caption = f"""resid_post of the same question about the same person in two languages ({", ".join(result.languages)}),
    on {result.n_subjects:,} subjects and {result.n_probes:,} probes per language. Cosine after each language's mean is
    taken off; linear CKA. Band: 95 % interval of the mean over pairs, resampling subjects. Grey area: up to the
    {100 * result.null_quantile:g} % quantile of the same mean with every person mismatched. What lies above is shared. At the
    subject's own token the shared name alone does that; CKA's null is high with few people."""
    title = "Similarity of languages' representations, by layer"
    return finish(figure, title, caption, height=230 * len(measures), legend=True, head=112)


def _similarity_cell(
    figure: go.Figure, pairs: pd.DataFrame, pooled: pd.DataFrame, *, first: bool, row: int, col: int
) -> None:
    place = {"row": row, "col": col}
    layers = pooled.layer.tolist()
    null = {"fillcolor": "rgba(140,140,140,0.25)", "line": {"color": GREY, "dash": "dot", "width": 1}}
    figure.add_scatter(
        x=layers, y=pooled.null, mode="lines", fill="tozeroy", name="mismatched people (null)", showlegend=first,
        legendgroup="null", hovertext=[f"null, layer {r.layer}: {r.null:.3f}" for r in rows_of(pooled)],
        hoverinfo="text", **null, **place,
    )  # fmt: skip
    for number, ((a, b), part) in enumerate(pairs.groupby(["language_a", "language_b"], sort=False)):
        hover = [f"{a}-{b}, layer {r.layer}<br>{_figure(r)}<br>null {r.null:.3f}" for r in rows_of(part)]
        figure.add_scatter(
            x=part.layer, y=part.value, mode="lines", line={"color": "rgba(0,114,178,0.3)", "width": 1},
            name="one pair of languages", legendgroup="pair", showlegend=first and number == 0, hovertext=hover,
            hoverinfo="text", **place,
        )  # fmt: skip
    figure.add_scatter(
        x=layers + layers[::-1], y=pooled.high.tolist() + pooled.low.tolist()[::-1], fill="toself", mode="none",
        fillcolor="rgba(0,114,178,0.25)", hoverinfo="skip", showlegend=False, **place,
    )  # fmt: skip
    hover = [f"all pairs, layer {r.layer}<br>{_figure(r)}<br>null {r.null:.3f}" for r in rows_of(pooled)]
    figure.add_scatter(
        x=layers, y=pooled.value, mode="lines", line={"color": _BLUE, "width": 2.5}, name="mean over pairs",
        legendgroup="mean", showlegend=first, hovertext=hover, hoverinfo="text", **place,
    )  # fmt: skip


def depths(
    result: LensResult | Sequence[LensResult], *, reading: Literal["first_token", "whole_value"] = "first_token"
) -> go.Figure:
    """Layers at which the answer's forms peak and the query form overtakes, a panel per lens (raw, tuned).

    Raises:
        ValueError: Whole values were not read.
    """
    results = [*result] if isinstance(result, Sequence) else [result]
    frames = [one.depths(reading) for one in results]
    queries = ordered({code for frame in frames for code in frame.query_language}, results[0].plant_language)
    titles = [f"{one.lens} lens ({one.component})" for one in results]
    figure = make_subplots(1, len(results), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    figure.update_annotations(font_size=13)
    last = max(int(one.readings.layer.max()) for one in results)
    right = last + 0.12 * (last + 1)
    for col, frame in enumerate(frames, start=1):
        for number, event in enumerate(_EVENTS):
            _event(figure, frame[frame.event == event], event, queries, lane=number, edge=right, col=col)
        figure.update_xaxes(title_text="layer", col=col)
    figure.update_xaxes(range=[-0.6, right], dtick=2)
    figure.update_yaxes(
        tickvals=list(range(len(queries))), ticktext=[label(code, results[0].plant_language) for code in queries]
    )
    figure.update_yaxes(range=[len(queries) - 0.5, -0.5])
    for row in range(1, len(queries)):
        figure.add_hline(row - 0.5, line_color="#E2E2E2", line_width=1)
    figure.update_yaxes(title_text="query language", col=1)
    n_subjects = frames[0].groupby("query_language").n_subjects.first()
    counts = str(n_subjects.min()) if n_subjects.nunique() == 1 else f"{n_subjects.min()} to {n_subjects.max()}"
    caption = f"""Layer at which the mean probability of each form of the answer is highest (on the right: that probability),
    and from which on the query-language form's stays above the plant-language form's, on {counts} subjects per row.
    Whiskers: 95 % interval, resampling subjects. No tick: the plant-language form was never ahead by 0.02, or still is
    at the last layer; the plant language itself ({results[0].plant_language or "unknown"}) has one form only."""
    return finish(
        figure,
        "Lens: where each language's form peaks and overtakes",
        caption,
        height=64 * len(queries),
        legend=True,
        head=112,
    )


def _event(
    figure: go.Figure, part: pd.DataFrame, event: str, queries: list[str], *, lane: int, edge: float, col: int
) -> None:
    name, colour, symbol = _EVENTS[event]
    y = [queries.index(code) + 0.27 * (lane - 1) for code in part.query_language]
    hover = [
        f"asked in {r.query_language}<br>{name}: layer {_layer(r.layer)} [{_layer(r.low)}, {_layer(r.high)}]<br>"
        f"probability there {r.prob:.3f}; happens in {100 * r.share:.0f} % of resamples"
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
    """Mean term of each layer's attention and MLP, a row per query language.

    Args:
        result: What to draw.
        form: `query`, `plant` or `query - plant` (what turns the answer from one language into the other).

    Raises:
        ValueError: The result has no such form.
    """
    frame = result.summary()
    check_choice("form", form, sorted(set(frame.form)))
    frame = frame[(frame.form == form) & frame.component.isin(["attn_out", "mlp_out"])]
    queries, layers = list(dict.fromkeys(frame.query_language)), list(range(result.n_layers))
    titles = ["attention output", "MLP output"]
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    top = float(frame.value.abs().max())
    for col, component in enumerate(("attn_out", "mlp_out"), start=1):
        cells = {(r.query_language, r.layer): r for r in rows_of(frame[frame.component == component])}
        rows = [[cells.get((query, layer)) for layer in layers] for query in queries]
        values = [[math.nan if cell is None else cell.value for cell in row] for row in rows]
        hover = [
            [
                "not measured" if cell is None else f"{query}, {component} of layer {layer}<br>{_figure(cell)}"
                for layer, cell in zip(layers, row, strict=True)
            ]
            for query, row in zip(queries, rows, strict=True)
        ]
        bar = {"title": {"text": "logit"}, "thickness": 14, "outlinewidth": 0, "nticks": 5}
        heat = {"z": values, "zmin": -top, "zmax": top, "colorscale": _DIVERGING, "colorbar": bar, "xgap": 1, "ygap": 1}
        trace = go.Heatmap(**heat, x=layers, y=queries, hovertext=hover, hoverinfo="text", showscale=col == 2)
        figure.add_trace(trace, row=1, col=col)
        figure.update_xaxes(title_text="layer", showgrid=False, dtick=2, col=col)
    figure.update_yaxes(autorange="reversed", showgrid=False).update_yaxes(title_text="query language", col=1)
    figure.update_annotations(font_size=13)
    counts = result.contributions.groupby("query_language").subject.nunique()
    what = "Difference of the two forms' terms" if form == "query - plant" else f"Term of the {form}-language form"
    caption = f"""{what} (first token, less the mean over the vocabulary), on {counts[queries].min()} to
    {counts[queries].max()} subjects per row ({result.n_collisions} probes left out: their two forms share the first
    token). Blue writes it, orange writes against it; hover for the 95 % interval, over subjects. What a layer does
    through later layers is not in it."""
    title = f"Direct logit attribution, {form} form, by layer and component"
    return finish(figure, title, caption, height=40 * len(queries), head=84)


def _figure(row: Any) -> str:
    return with_interval(row.value, row.low, row.high)


def _layer(layer: float) -> str:
    return "none" if math.isnan(layer) else f"{layer:g}"
