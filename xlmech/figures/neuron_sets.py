"""Where the chosen neurons lie."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.marks import name_rows
from xlmech.figures.style import GRID, INK, colour, finish
from xlmech.figures.wording import label, language_name, ordered

if TYPE_CHECKING:
    from xlmech.neurons.privacy_neurons import PrivacyNeurons


def neurons_per_layer(result: PrivacyNeurons) -> go.Figure:
    """Draw the number of chosen neurons per layer: universal above, language-specific below, stacked by language.

    Of one language alone universal neurons are undefined, and its neurons are the only panel. Counts of a choice; what the
    chosen neurons do is for `before_after` to show.
    """
    n_layers, d_mlp = result.scores.shape[1:]
    universal, specific = (result.chosen[result.chosen.kind == kind] for kind in ("universal", "specific"))
    several = len(result.languages) > 1
    rows = 2 if several else 1
    sets = [("universal", INK, 1, universal)] if several else []
    sets += [
        (label(code), colour(code), rows, specific[specific.language == code]) for code in ordered(result.languages)
    ]
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.08)
    for name, shade, row, part in sets:
        counts = part.layer.value_counts().reindex(range(n_layers), fill_value=0)
        hover = [f"{name}<br>layer {layer}: {n:,} of {d_mlp:,} neurons" for layer, n in counts.items()]
        marker = {"color": shade, "line": {"color": "white", "width": 0.5}}
        figure.add_bar(
            x=list(counts.index), y=list(counts), name=name, hovertext=hover, hoverinfo="text", marker=marker,
            row=row, col=1,
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.15).update_xaxes(range=[-0.6, n_layers - 0.4], showgrid=False)
    figure.update_xaxes(title_text="layer", dtick=1 if n_layers <= 36 else None, row=rows)  # more numbers would overlap
    if not several:
        return _of_one_language(figure, result, len(specific))
    figure.update_yaxes(title_text="universal (neurons)", row=1)
    figure.update_yaxes(title_text="specific (neurons)", row=2)
    caption = f"""MLP neurons chosen by rule {result.rule!r}: {len(universal):,} universal and {len(specific):,}
    language-specific ones of {n_layers * d_mlp:,}. Counts of a choice, hence no interval; each panel has its own
    scale. High bars are layers in which private answers may be computed; that is a hypothesis, which ablation tests."""
    title = "Privacy neurons chosen per layer: universal, and specific to one language"
    return finish(figure, title, caption, height=380, legend=True, head=112)


def _of_one_language(figure: go.Figure, result: PrivacyNeurons, n_chosen: int) -> go.Figure:
    figure.update_yaxes(title_text="neurons")
    caption = f"""MLP neurons chosen by rule {result.rule!r}: {n_chosen:,} of {result.scores[0].numel():,}, by probes in
    {language_name(result.languages[0])} alone. Whether they act in further languages was not measured, so none is called
    universal. Counts of a choice, hence no interval. High bars are layers in which private answers may be computed; that is a
    hypothesis, which ablation tests."""
    return finish(figure, "Privacy neurons chosen per layer", caption, height=190)


def overlap(result: PrivacyNeurons, *, n_neurons: int | None = None) -> go.Figure:
    """Draw how many of each language's strongest neurons are strong in which other languages too, as an UpSet plot.

    Above is the number of neurons that are among the strongest of exactly the languages marked below. Strong by attribution:
    whether ablating them acts in these languages, `specificity` shows.

    Args:
        result: With the scores of two languages or more.
        n_neurons: Neurons per language, those of highest positive score; by default as many as universal ones were chosen.

    Raises:
        ValueError: One language only, no neurons to take, or no positive score.
    """
    if len(result.languages) < 2:
        raise ValueError("overlap needs the scores of two languages or more")
    n_neurons = n_neurons if n_neurons is not None else max(1, len(result.universal))
    if n_neurons < 1:
        raise ValueError(f"n_neurons must be at least 1, got {n_neurons}")
    members = _members(result, n_neurons)
    if members.empty:
        raise ValueError("no neuron has a positive score, so no language has a strongest one")
    sizes = Counter(frozenset(languages) for _, languages in members.groupby("neuron").language)
    order = sorted(sizes.items(), key=lambda item: (-item[1], -len(item[0]), sorted(item[0])))
    shown = order[:24]
    queries = ordered(result.languages)
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.5, 0.5], vertical_spacing=0.03)
    hover = [f"{count:,} neurons in exactly<br>{'<br>'.join(map(label, ordered(group)))}" for group, count in shown]
    figure.add_bar(
        x=list(range(len(shown))), y=[count for _, count in shown], text=[f"{count:,}" for _, count in shown],
        textposition="outside", cliponaxis=False, marker_color=INK, hovertext=hover, hoverinfo="text", width=0.62,
        row=1, col=1,
    )  # fmt: skip
    _draw_members(figure, [group for group, _ in shown], queries)
    per_language = members.groupby("language").size()
    name_rows(figure, [f"{label(code)}, {per_language.get(code, 0):,}" for code in queries], row=2)
    figure.update_yaxes(title_text="language, neurons", row=2)
    figure.update_yaxes(title_text="neurons", range=[0, 1.15 * shown[0][1]], row=1)
    figure.update_xaxes(showticklabels=False, showgrid=False, ticks="", range=[-0.6, len(shown) - 0.4])
    figure.update_xaxes(title_text="exactly these languages", row=2)
    title = "Overlap of languages: neurons that are among the strongest of several"
    caption = _caption(result, n_neurons, order, len(shown))
    return finish(figure, title, caption, height=190 + 22 * len(queries), foot=44)


def _members(result: PrivacyNeurons, n_neurons: int) -> pd.DataFrame:
    """`language` and `neuron` (a flat index) of each language's strongest."""
    rows = []
    for code, scores in zip(result.languages, result.scores.flatten(1), strict=True):
        best = scores.topk(min(n_neurons, scores.numel()))
        rows += [(code, index) for index in best.indices[best.values > 0].tolist()]
    return pd.DataFrame(rows, columns=["language", "neuron"])


def _draw_members(figure: go.Figure, groups: list[frozenset[str]], queries: list[str]) -> None:
    """Draw a column of dots per combination: its languages in their colours, joined, and the others pale."""
    for x, group in enumerate(groups):
        ends = [queries.index(code) for code in group]
        figure.add_scatter(
            x=[x, x], y=[min(ends), max(ends)], mode="lines", line={"color": INK, "width": 2}, hoverinfo="skip",
            row=2, col=1,
        )  # fmt: skip
    dots = [(x, y, code, code in group) for x, group in enumerate(groups) for y, code in enumerate(queries)]
    frame = pd.DataFrame(dots, columns=["x", "y", "language", "member"])
    pale, full = frame[~frame.member], frame[frame.member]
    look = {"color": GRID, "size": 8}
    figure.add_scatter(x=pale.x, y=pale.y, mode="markers", marker=look, hoverinfo="skip", row=2, col=1)
    look = {"color": [colour(code) for code in full.language], "size": 11, "line": {"color": INK, "width": 0.6}}
    figure.add_scatter(
        x=full.x, y=full.y, mode="markers", marker=look, hovertext=list(map(label, full.language)), hoverinfo="text",
        row=2, col=1,
    )  # fmt: skip


def _caption(result: PrivacyNeurons, n_neurons: int, order: list[tuple[frozenset[str], int]], n_shown: int) -> str:
    total = result.scores[0].numel()
    common = dict(order).get(frozenset(result.languages), 0)
    rest = order[n_shown:]
    note = f"Not drawn: {len(rest):,} smaller combinations, {sum(count for _, count in rest):,} neurons together."
    every = "all languages" if len(result.languages) > 2 else " and ".join(map(language_name, result.languages))
    return f"""The {n_neurons:,} MLP neurons of highest attribution in each language, of {total:,}. Bars: how many are among
    them in exactly the languages marked below; {common:,} are in {every}. Two languages' sets drawn at random would share
    {n_neurons * n_neurons / total:.2g}. Counts of a choice, hence no interval. {note if rest else ""}"""
