"""Where the chosen neurons lie."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.style import GRID, INK, colour, finish, label, language_name, ordered, rows_of

if TYPE_CHECKING:
    from xlmech.neurons.neuron_set import PrivacyNeurons

_EVERY_LAYER_UP_TO = 36
"""So many layers have their number below the axis at 900 px."""


def neurons_per_layer(result: PrivacyNeurons) -> go.Figure:
    """Number of chosen neurons per layer: universal above, language-specific below, stacked by language.

    Counts of a choice; what the chosen neurons do is for `before_after` to show.
    """
    n_layers, d_mlp = result.scores.shape[1:]
    universal, specific = (result.chosen[result.chosen.kind == kind] for kind in ("universal", "specific"))
    sets = [("universal", INK, 1, universal)]
    sets += [(label(code), colour(code), 2, specific[specific.language == code]) for code in ordered(result.languages)]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    for name, shade, row, part in sets:
        counts = part.layer.value_counts().reindex(range(n_layers), fill_value=0)
        hover = [f"{name}<br>layer {layer}: {n:,} of {d_mlp:,} neurons" for layer, n in counts.items()]
        marker = {"color": shade, "line": {"color": "white", "width": 0.5}}
        bars = go.Bar(x=list(counts.index), y=list(counts), name=name, hovertext=hover, hoverinfo="text", marker=marker)
        figure.add_trace(bars, row=row, col=1)
    figure.update_layout(barmode="stack", bargap=0.15).update_xaxes(range=[-0.6, n_layers - 0.4], showgrid=False)
    figure.update_xaxes(title_text="layer", dtick=1 if n_layers <= _EVERY_LAYER_UP_TO else None, row=2)
    figure.update_yaxes(title_text="universal (neurons)", row=1)
    figure.update_yaxes(title_text="specific (neurons)", row=2)
    caption = f"""MLP neurons chosen by rule {result.rule!r}: {len(universal):,} universal and {len(specific):,}
    language-specific ones of {n_layers * d_mlp:,}. Counts of a choice, hence no interval; each panel has its own
    scale. High bars are layers where private answers are taken to pass; that is a hypothesis, which deactivation
    tests."""
    title = "Privacy neurons chosen per layer: universal, and specific to one language"
    return finish(figure, title, caption, height=380, legend=True, head=112)


_MOST = 24
"""Combinations that are drawn, the largest."""


def overlap(result: PrivacyNeurons, *, n_neurons: int | None = None) -> go.Figure:
    """How many of each language's strongest neurons are strong in which other languages too, as an UpSet plot.

    Above, the number of neurons that are among the strongest of exactly the languages marked below. Strong by attribution:
    whether deactivating them acts in these languages, `specificity` shows.

    Args:
        result: With the scores of two languages or more.
        n_neurons: Neurons per language, those of highest positive score; by default as many as universal ones were chosen.

    Raises:
        ValueError: One language only, no neurons to take, or no positive score.
    """
    if len(result.languages) < 2:
        raise ValueError("overlap needs the scores of two languages or more")
    k = n_neurons if n_neurons is not None else max(1, len(result.universal))
    if k < 1:
        raise ValueError(f"n_neurons must be at least 1, got {k}")
    members = _members(result, k)
    if members.empty:
        raise ValueError("no neuron has a positive score, so no language has a strongest one")
    sizes = Counter(frozenset(languages) for _, languages in members.groupby("neuron").language)
    order = sorted(sizes.items(), key=lambda item: (-item[1], -len(item[0]), sorted(item[0])))
    queries, shown = ordered(result.languages), order[:_MOST]
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.5, 0.5], vertical_spacing=0.03)
    _draw_bars(figure, shown)
    _draw_members(figure, [group for group, _ in shown], queries)
    per_language = members.groupby("language").size()
    names = [f"{label(code)}, {per_language.get(code, 0):,}" for code in queries]
    figure.update_yaxes(tickvals=list(range(len(queries))), ticktext=names, range=[len(queries) - 0.5, -0.5], row=2)
    figure.update_yaxes(showgrid=False, title_text="language, neurons", row=2)
    figure.update_yaxes(title_text="neurons", range=[0, 1.15 * shown[0][1]], row=1)
    figure.update_xaxes(showticklabels=False, showgrid=False, ticks="", range=[-0.6, len(shown) - 0.4])
    figure.update_xaxes(title_text="exactly these languages", row=2)
    title = "Overlap of languages: neurons that are among the strongest of several"
    caption = _caption(result, k, order, len(shown))
    return finish(figure, title, caption, height=190 + 22 * len(queries), foot=44)


def _members(result: PrivacyNeurons, k: int) -> pd.DataFrame:
    """`language` and `neuron` (a flat index) of each language's strongest."""
    rows = []
    for code, scores in zip(result.languages, result.scores.flatten(1), strict=True):
        best = scores.topk(min(k, scores.numel()))
        rows += [
            (code, index) for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True) if value > 0
        ]
    return pd.DataFrame(rows, columns=["language", "neuron"])


def _draw_bars(figure: go.Figure, shown: list[tuple[frozenset[str], int]]) -> None:
    hover = [f"{count:,} neurons in exactly<br>{'<br>'.join(map(label, ordered(group)))}" for group, count in shown]
    figure.add_bar(
        x=list(range(len(shown))), y=[count for _, count in shown], text=[f"{count:,}" for _, count in shown],
        textposition="outside", cliponaxis=False, marker_color=INK, hovertext=hover, hoverinfo="text", width=0.62,
        row=1, col=1,
    )  # fmt: skip


def _draw_members(figure: go.Figure, groups: list[frozenset[str]], queries: list[str]) -> None:
    """A column of dots per combination: its languages in their colours, joined, and the others pale."""
    cells = pd.DataFrame(
        [(x, y, code, code in group) for x, group in enumerate(groups) for y, code in enumerate(queries)],
        columns=["x", "y", "language", "member"],
    )
    for x, group in enumerate(groups):
        ends = [queries.index(code) for code in group]
        line = {"color": INK, "width": 2}
        figure.add_scatter(x=[x, x], y=[min(ends), max(ends)], mode="lines", line=line, hoverinfo="skip", row=2, col=1)
    pale, full = cells[~cells.member], cells[cells.member]
    quiet = {"color": GRID, "size": 8}
    figure.add_scatter(x=pale.x, y=pale.y, mode="markers", marker=quiet, hoverinfo="skip", row=2, col=1)
    marker = {"color": [colour(code) for code in full.language], "size": 11, "line": {"color": INK, "width": 0.6}}
    hover = [label(row.language) for row in rows_of(full)]
    figure.add_scatter(
        x=full.x, y=full.y, mode="markers", marker=marker, hovertext=hover, hoverinfo="text", row=2, col=1
    )


def _caption(result: PrivacyNeurons, k: int, order: list[tuple[frozenset[str], int]], shown: int) -> str:
    total = result.scores[0].numel()
    common = dict(order).get(frozenset(result.languages), 0)
    left = ""
    if len(order) > shown:
        left = f"""Not drawn: {len(order) - shown:,} smaller combinations, {sum(count for _, count in order[shown:]):,}
        neurons together."""
    every = "all languages" if len(result.languages) > 2 else " and ".join(map(language_name, result.languages))
    return f"""The {k:,} MLP neurons of highest attribution in each language, of {total:,}. Bars: how many are among them in
    exactly the languages marked below; {common:,} are in {every}. Two languages' sets drawn at random would share
    {k * k / total:.2g}. Counts of a choice, hence no interval. {left}"""
