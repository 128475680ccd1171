"""Activation patching: whose value comes out in which language's form, by layer; by layer and position; what heads look at."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.checks import check_choice
from xlmech.figures.style import GREY, INK, SCALE, faded, finish, language_name, rows_of, with_interval

if TYPE_CHECKING:
    from xlmech.patching.between_languages import PatchingResult
    from xlmech.patching.positions import PositionSweep

_OUTCOMES = {
    "source_in_target": ("source's value, target language's form", "#0072B2", "solid"),
    "source_in_source": ("source's value, source language's form", "#D55E00", "solid"),
    "target_in_target": ("target's value, target language's form", INK, "dot"),
    "target_in_source": ("target's value, source language's form", GREY, "dot"),
}
_KINDS = {"cross_language": "", "same_language": "same language", "other_attribute": "source of another attribute"}
_WHERE = {
    "last": "the last token", "subject_last": "the subject's last token", "subject": "the subject's tokens", "all": "all tokens",
}  # fmt: skip
_WHAT = {"first_token": "answer's first token", "whole_value": "whole answer"}
_COLUMNS = 3


def patching(
    result: PatchingResult, *, reading: Literal["first_token", "whole_value"] = "first_token", head: int | None = None
) -> go.Figure:
    """Mean probability of each outcome by patched layer, a panel per pair of languages and per control.

    Args:
        result: What to draw.
        reading: First tokens or whole values.
        head: Which head's, where each was patched on its own.

    Raises:
        ValueError: The result has no such reading; a head is needed and not given, or is not there.
    """
    frame = result.summary(reading=reading)
    heads = sorted(frame["head"].unique())
    if (head if head is not None else -1) not in heads:
        raise ValueError(f"no head {head} in this result; it has {', '.join(map(str, heads))} (give head=)")
    frame = frame[frame["head"] == (-1 if head is None else head)]
    keys = ["kind", "source_language", "target_language"]
    panels = [pd.DataFrame(part) for kind in _KINDS for _, part in frame[frame.kind == kind].groupby(keys, sort=False)]
    n_rows, n_columns = -(-len(panels) // _COLUMNS), min(_COLUMNS, len(panels))
    figure = make_subplots(
        n_rows, n_columns, subplot_titles=[_title(part) for part in panels], shared_yaxes=True,
        horizontal_spacing=0.03, vertical_spacing=0.35 / n_rows,
    )  # fmt: skip
    for number, part in enumerate(panels):
        place = {"row": number // _COLUMNS + 1, "col": number % _COLUMNS + 1}
        for outcome in _OUTCOMES:
            _line(figure, part[part.outcome == outcome], outcome, place)
        figure.update_xaxes(title_text="patched layer" if number + _COLUMNS >= len(panels) else None, **place)
    figure.update_xaxes(range=[frame.layer.min() - 0.3, frame.layer.max() + 0.3], nticks=8)
    figure.update_yaxes(range=[0, 1.05 * max(0.05, frame.prob.max(), frame.prob_high.max())])
    figure.update_yaxes(title_text="probability (0 to 1)", col=1).update_annotations(font_size=13)
    title = f"Patching {result.component} at {_WHERE[result.position]}: mean probability of the {_WHAT[reading]}"
    return finish(figure, title, _caption(result, frame), height=230 * n_rows, legend=True, head=128)


def _title(part: pd.DataFrame) -> str:
    row = rows_of(part)[0]
    way = f"{' + '.join(map(language_name, row.source_language.split('+')))} → {language_name(row.target_language)}"
    return "<br>".join(filter(None, [escape(way), _KINDS[row.kind]]))


def _line(figure: go.Figure, part: pd.DataFrame, outcome: str, place: dict[str, int]) -> None:
    """One outcome's line with its band; in the legend once."""
    if part.empty:
        return
    label, colour, dash = _OUTCOMES[outcome]
    part, first = part.sort_values("layer"), all(trace.name != label for trace in figure.data)
    layers = part.layer.tolist()
    figure.add_scatter(
        x=layers + layers[::-1], y=part.prob_high.tolist() + part.prob_low.tolist()[::-1], fill="toself",
        fillcolor=faded(colour), mode="none", hoverinfo="skip", showlegend=False, legendgroup=outcome, **place,
    )  # fmt: skip
    hover = [
        f"layer {r.layer}, {label}<br>{with_interval(r.prob, r.prob_low, r.prob_high)}"
        f"<br>change {r.change:+.3f}, {r.change_log_prob:+.2f} nats"
        for r in rows_of(part)
    ]
    figure.add_scatter(
        x=layers, y=part.prob, mode="lines", line={"color": colour, "dash": dash, "width": 2}, name=label,
        legendgroup=outcome, showlegend=first, legendrank=list(_OUTCOMES).index(outcome) + 1, hovertext=hover,
        hoverinfo="text", **place,
    )  # fmt: skip


def _caption(result: PatchingResult, frame: pd.DataFrame) -> str:
    low, high = int(frame.n_pairs.min()), int(frame.n_pairs.max())
    pairs = f"{low}" if low == high else f"{low} to {high}"
    runs = {
        "denoising": "The target's prompt is run, the source's activation put in",
        "noising": "The source's prompt is run, the target's activation put in",
    }[result.direction]
    layers = "one layer at a time" if result.layers == "single" else "from that layer through the last"
    controls = ""
    if set(frame.kind) - {"cross_language"}:
        controls = """Controls: source and target in one language, where the two forms are one; and a third person asked for
        another attribute, whose activation tells nothing of the value followed."""
    return f"""{runs}, {layers}; on {pairs} pairs of subjects per panel ({result.n_collisions} left out: forms of two
    outcomes share their first token). Bands: 95 % interval, over pairs of subjects. The source's value in the target
    language's form shows a layer that holds the fact apart from any language; in the source language's form, one that
    holds the word already. {controls}"""


def patching_positions(
    result: PositionSweep,
    *,
    value: Literal["normalised", "source_in_target", "source_in_source", "target_in_target"] = "normalised",
) -> go.Figure:
    """A heat map of one pair: every layer and token of the target's prompt patched in turn.

    Args:
        result: What to draw; of heads, the strongest of each layer and position.
        value: `normalised` effect (0: nothing, 1: answers as the source does), or an outcome's probability.

    Raises:
        ValueError: The result has no such outcome.
    """
    check_choice("outcome", value, ("normalised", *result.outcomes.outcome.unique()))
    cells = _cells(result, value)
    tokens = result.tokens.sort_values("position")
    layers = sorted(cells.layer.unique())
    table = cells.pivot_table(index="layer", columns="position", values="value", dropna=False).loc[layers]
    table = table.reindex(columns=tokens.position)
    labels = [_token(row, tokens) for row in rows_of(tokens)]
    hover = [
        [f"layer {layer}, {label}<br>{_named(value)}: {cell:.3f}" for label, cell in zip(labels, row, strict=True)]
        for layer, row in zip(layers, table.to_numpy(), strict=True)
    ]
    bar = {"title": {"text": "effect" if value == "normalised" else "prob."}, "thickness": 14, "outlinewidth": 0}
    heat = {
        "z": table.to_numpy().tolist(),
        "xgap": 1,
        "ygap": 1,
        "colorbar": bar,
        "hovertext": hover,
        "hoverinfo": "text",
    }
    figure = go.Figure(go.Heatmap(**heat, **_scale(table.to_numpy(), value)))
    figure.update_yaxes(title_text="patched layer", tickvals=list(range(len(layers))), ticktext=layers, showgrid=False)
    figure.update_xaxes(title_text="token of the target's prompt", showgrid=False, tickangle=-60)
    figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=labels)
    for edge in np.flatnonzero(tokens.part.to_numpy()[1:] != tokens.part.to_numpy()[:-1]):
        figure.add_vline(edge + 0.5, line_color=INK, line_width=1)
    pair = rows_of(result.effects)[0]
    caption = f"""{_named(value, long=True)}. One pair ({language_name(pair.source_language)} source,
    {language_name(pair.target_language)} target; {pair.attribute}), {result.component}, so there is no interval. Lines
    part the tokens before, of and after the subject, whose text is not shown; in each part the source's tokens
    correspond by relative place. Blank: not defined."""
    title = f"Patching {result.component} by layer and token: {_named(value)}"
    return finish(figure, title, caption, height=20 * len(layers), foot=130)


def _cells(result: PositionSweep, value: str) -> pd.DataFrame:
    """`layer`, `position` and `value`; of several heads the one furthest from nothing."""
    if value == "normalised":
        frame = result.effects.assign(value=result.effects.normalised)
    else:
        part = result.outcomes[result.outcomes.outcome == value]
        frame = part.assign(value=np.exp(part.log_prob))
    order = frame.value.abs().sort_values(kind="stable").index
    return pd.DataFrame(frame.loc[order].drop_duplicates(["layer", "position"], keep="last"))


def _token(row: Any, tokens: pd.DataFrame) -> str:
    """What stands below a column: the token, or for the subject its number only."""
    if row.part == "subject":
        places = tokens.position[tokens.part == "subject"]
        return f"subject {row.position - places.min() + 1}/{len(places)}"
    shown = row.token.replace("\n", "↵").replace(" ", "\u00a0")
    return f"{row.position}: {escape(shown) or '∅'}"


def _scale(values: Any, value: str) -> dict[str, Any]:
    if value != "normalised":
        return {"colorscale": SCALE, "zmin": 0, "zmax": max(0.05, float(np.nanmax(values)))}
    top = max(1.0, float(np.nanmax(np.abs(values)))) if not np.isnan(values).all() else 1.0
    return {"colorscale": ((0, "#D55E00"), (0.5, "#FFFFFF"), (1, "#0072B2")), "zmin": -top, "zmax": top}


def _named(value: str, *, long: bool = False) -> str:
    if value != "normalised":
        return f"probability of the {_OUTCOMES[value][0]}".replace("the source's", "source's").replace(
            "the target's", "target's"
        )
    if not long:
        return "normalised effect"
    return """Change of the log-odds of the source's value against the target's (in any form), as a share of the difference of
    the two runs: 0, nothing changes; 1, the answer is as in the source's run"""
