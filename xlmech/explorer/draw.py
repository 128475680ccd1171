"""Draw what a state shows as Plotly figures; no widgets, no model."""

from __future__ import annotations

import textwrap
import warnings
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xlmech.data.records import MASK
from xlmech.explorer.state import ExplorerState
from xlmech.figures.marks import cells, panels
from xlmech.figures.patches import patching_positions
from xlmech.figures.style import GREY, INK, LANGUAGES, ORANGE, SCALE, SETS, colour, finish
from xlmech.figures.wording import label, language_name, ordered, rows_of, token_texts
from xlmech.lens.logit import LensResult
from xlmech.lens.predictions import LensPredictions
from xlmech.neurons.attribution.attribute import AttributionResult
from xlmech.patching.positions import PositionSweep

_FORMS = {"query": "query language's form", "plant": "training language's form", "other": "likeliest other form"}
_CAPTION_WIDTH = 112
"""Characters a line."""
_LEFT = 70
"""Left margin, px."""
_MOST_CROSSES = 5000
"""Ablated neurons up to which each is crossed in the map."""
_MOST_COLUMNS = 28
"""Tokens of a prompt up to which the predicted tokens are written into the cells."""


def lens(result: LensResult, state: ExplorerState) -> go.Figure:
    """Draw the probability of the answer's first token by layer and form, a panel per language; one record, so no interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one person has no interval, and none is drawn
        frame = result.summary()
    training = result.plant_language
    queries = ordered(frame.query_language, training)
    figure, places = panels([label(code, training) for code in queries], 5, gap=0.3)
    training_colour = colour(training) if training in LANGUAGES else SETS[2]
    looks = {"query": (INK, "solid"), "plant": (training_colour, "dash"), "other": (GREY, "dot")}
    named: set[str] = set()
    for query, place in zip(queries, places, strict=True):
        for form, (shade, dash) in looks.items():
            part = frame[(frame.query_language == query) & (frame.form == form)].sort_values("layer")
            if len(part):
                hover = [
                    f"{label(query)}, layer {row.layer}<br>{_FORMS[form]}: {row.prob:.3f}" for row in rows_of(part)
                ]
                figure.add_scatter(
                    x=part.layer, y=part.prob, mode="lines+markers", line={"color": shade, "dash": dash}, marker_size=5,
                    name=_FORMS[form], legendgroup=form, showlegend=form not in named, hovertext=hover,
                    hoverinfo="text", **place,
                )  # fmt: skip
                named.add(form)
    if state.layer is not None:
        figure.add_vline(state.layer, line={"color": ORANGE, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(range=[-0.3, frame.layer.max() + 0.3], dtick=max(1, round(frame.layer.max() / 5)))
    figure.update_yaxes(range=[0, 1.05 * max(0.05, float(frame.prob.max()))])
    figure.update_yaxes(title_text="probability", col=1)
    left_out = (
        f" {result.n_collisions} languages are left out: there both forms begin alike." if result.n_collisions else ""
    )
    caption = f"""First token of the answer, read after each layer at the last token of the prompt. One record: no interval.
    Click a point to select its layer.{left_out}"""
    figure = finish(
        figure,
        "Which language's form rises in which layer?",
        caption,
        height=170 * places[-1]["row"],
        legend=True,
        head=104,
    )
    return narrow(figure)


def predictions(result: LensPredictions, state: ExplorerState, *, by: str = "prob") -> go.Figure:
    """Draw the layer x token table of predicted tokens, coloured by the likeliest token's probability or by entropy."""
    best = result.best()
    tokens = result.tokens.sort_values("position")
    texts = [_escaped(text) for text in token_texts(tokens.assign(part=_shown_parts(tokens, state.reveal)))]
    layers = sorted(best.layer.unique())
    values = best.pivot(index="layer", columns="position", values=by)
    width = max(2, min(7, 100 // len(tokens) - 1))
    predicted = best.assign(token=[_cell(row, width) for row in rows_of(best)]).pivot(
        index="layer", columns="position", values="token"
    )
    hover = _top_tokens(result.cells, texts)
    is_prob = by == "prob"
    high = 1.0 if is_prob else float(max(0.05, np.nanmax(values.to_numpy())))
    trace = cells(
        values.to_numpy().tolist(), hover, low=0.0, high=high, title="probability" if is_prob else "entropy (nats)",
        scale=SCALE if is_prob else SCALE[::-1],
    )  # fmt: skip
    if len(tokens) <= _MOST_COLUMNS:
        trace.update(text=predicted.to_numpy().tolist(), texttemplate="%{text}", textfont_size=10)
    figure = go.Figure(trace)
    figure.update_xaxes(tickvals=list(range(len(texts))), ticktext=texts, tickangle=-55, showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=layers, title_text="layer", showgrid=False)
    _mark(figure, state)
    caption = """The token that each layer would write next at each token of the prompt (logit lens). •fr: the answer's first
    token in that language's form; •••: a token of a name or a value. Hover for the five likeliest; click a cell to select it."""
    title = f"What each layer would write next, asked in {language_name(result.query_language)}"
    figure = finish(figure, title, caption, height=24 * len(layers), foot=110)
    return narrow(figure)


def flow(sweep: PositionSweep, state: ExplorerState, *, value: str = "normalised") -> go.Figure:
    """Draw the layer x token map of patching, with the selected cell outlined."""
    figure = patching_positions(sweep, value=value)  # type: ignore[arg-type]
    return narrow(_mark(figure, state))


def neurons(result: AttributionResult, ranked: pd.DataFrame, state: ExplorerState) -> go.Figure:
    """Draw the strongest neurons of one language over layer and index; the ablated ones are crossed."""
    top = result.top[result.top.effect > 0].sort_values("effect")
    largest = float(top.effect.max()) if len(top) else 1.0
    n_layers, d_mlp = result.mean.shape[1:]
    listed = set(zip(ranked.layer.tolist(), ranked.neuron.tolist(), strict=True))
    pairs = list(zip(top.layer.tolist(), top.neuron.tolist(), strict=True))
    figure = go.Figure()
    figure.add_scatter(
        x=top.neuron, y=top.layer, mode="markers", name="attributed",
        hovertext=[
            f"layer {row.layer}, neuron {row.neuron}<br>effect {row.effect:+.3f} nats per token" for row in rows_of(top)
        ],
        hoverinfo="text",
        marker={
            "size": 5 + 13 * np.sqrt(top.effect / largest), "color": top.effect / largest, "colorscale": SCALE, "cmin": 0,
            "cmax": 1, "line": {"color": INK, "width": [1.6 if pair in listed else 0.4 for pair in pairs]},
            "colorbar": {"title": {"text": "share of the largest", "side": "right"}, "thickness": 14, "outlinewidth": 0},
        },
    )  # fmt: skip
    shown = sorted(state.ablated)[:_MOST_CROSSES]
    figure.add_scatter(
        x=[index for _, index in shown],
        y=[layer for layer, _ in shown],
        mode="markers",
        name="ablated",
        hovertext=[f"layer {layer}, neuron {index}: ablated" for layer, index in shown],
        hoverinfo="text",
        marker={"symbol": "x", "size": 9, "color": ORANGE, "line": {"color": INK, "width": 0.5}},
    )
    figure.update_xaxes(title_text="neuron", range=[-0.02 * d_mlp, 1.02 * d_mlp])
    figure.update_yaxes(title_text="layer", range=[-0.7, n_layers - 0.3], dtick=max(1, n_layers // 18))
    caption = """What the answer would lose, by the first order, if the neuron alone were ablated; the 200 strongest. Dark edge:
    in the list. Orange: ablated. Click a neuron to ablate it, or to bring it back."""
    title = f"Neurons behind the answer, asked in {language_name(state.language)}"
    figure = finish(figure, title, caption, height=max(300, 18 * n_layers))
    return narrow(figure).update_layout(hovermode="closest")


def narrow(figure: go.Figure, left: int = _LEFT, right: int = 10) -> go.Figure:
    """Fit a finished figure to the explorer's tabs: margins of its labels' width, px, and title and caption of shorter lines."""
    (caption,) = (note for note in figure.layout.annotations if note.name == "caption")
    lines = textwrap.wrap(figure.layout.meta["caption"].replace(" %", "\u00a0%"), _CAPTION_WIDTH)
    more = 18 * (len(lines) - len(caption.text.split("<br>")))
    caption.update(text="<br>".join(map(escape, lines)), xshift=16 - left)
    figure.update_traces(colorbar_title_side="right", selector={"type": "heatmap"})
    bottom, height = figure.layout.margin.b + more, figure.layout.height + more
    return figure.update_layout(margin={"l": left, "r": right, "b": bottom}, height=height, title_font_size=15)


def _mark(figure: go.Figure, state: ExplorerState) -> go.Figure:
    """Outline the selected cell of a layer x token map."""
    if state.layer is not None and state.position is not None:
        x, y = state.position, state.layer
        edge = {"color": ORANGE, "width": 2.5}
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line=edge)
    return figure


def _shown_parts(tokens: pd.DataFrame, reveal: bool) -> pd.Series:
    """Return the tokens' parts; revealed names are parts like others."""
    return tokens.part.where(tokens.part != "subject", "before") if reveal else tokens.part


def _cell(row: object, width: int) -> str:
    """Write a cell's predicted token: the form that it begins, or its text, shortened to `width` characters."""
    form, token = str(getattr(row, "form", "")), str(getattr(row, "token", ""))
    if token == MASK:
        return f"<b>•{escape(form)}</b>" if form else "•••"
    text = _escaped(token[:width] + ("…" if len(token) > width else ""))
    return f"<b>{text}</b>" if form else text


def _escaped(text: str) -> str:
    """Write a token for Plotly, which reads some HTML but knows no entities of quotes."""
    return escape(text.replace("\n", "↵").replace(" ", "\u00a0"), quote=False) or "∅"


def _top_tokens(table: pd.DataFrame, texts: list[str]) -> list[list[str]]:
    """Write the five likeliest tokens of every cell, for hovering."""
    hover = []
    for layer, of_layer in table.groupby("layer"):
        row = []
        for position, cell in of_layer.groupby("position"):
            lines = [f"layer {layer}, {texts[int(str(position))]}, entropy {cell.entropy.iloc[0]:.2f} nats"]
            for one in rows_of(cell.sort_values("rank")):
                form = f" (the answer in {label(one.form)})" if one.form else ""
                lines.append(f"{one.rank}. {_escaped(one.token)}{form}: {one.prob:.3f}")
            row.append("<br>".join(lines))
        hover.append(row)
    return hover
