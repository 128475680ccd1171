"""Where the chosen neurons lie, and how many of each language's strongest are another's too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from xlmech.figures.findings import layer_runs
from xlmech.figures.marks import cells, heatmap, matrix
from xlmech.figures.style import INK, colour, finish
from xlmech.figures.wording import joined, label, language_name, ordered, percent, short_name

if TYPE_CHECKING:
    from xlmech.neurons.privacy_neurons import PrivacyNeurons

_HYPOTHESIS = """Layers with many are those in which private answers may be computed; that is a hypothesis, which ablation tests.
Counts of a choice, hence no interval."""
_MOST_COLUMNS = 30
"""Layers up to which the counts are written into the cells."""


def neurons_per_layer(result: PrivacyNeurons) -> go.Figure:
    """Draw the number of chosen neurons per layer, a row for universal neurons and for each language's own.

    Of one language alone universal neurons are undefined, and its neurons are bars. Counts of a choice; what the chosen neurons
    do is for `before_after` to show.
    """
    n_layers, d_mlp = result.scores.shape[1:]
    layers = list(range(n_layers))
    universal, specific = (result.chosen[result.chosen.kind == kind] for kind in ("universal", "specific"))
    if len(result.languages) == 1:
        return _of_one_language(result, specific, layers)
    sets = [("<b>universal</b>", universal)]
    sets += [(label(code), specific[specific.language == code]) for code in ordered(result.languages)]
    counts = [part.layer.value_counts().reindex(layers, fill_value=0).tolist() for _, part in sets]
    hover = [
        [f"{name}<br>layer {layer}: {n:,} of {d_mlp:,} neurons" for layer, n in enumerate(row)]
        for (name, _), row in zip(sets, counts, strict=True)
    ]
    top = max(1, *(n for row in counts for n in row))
    trace = cells(counts, hover, low=0, high=top, title="neurons")
    figure = heatmap(trace, list(map(str, layers)), [f"{name}, {len(part):,}" for name, part in sets])
    if n_layers <= _MOST_COLUMNS:
        for y, row in enumerate(counts):
            for x, n in enumerate(row):
                if n:
                    shade = "white" if n > 0.7 * top else INK
                    figure.add_annotation(x=x, y=y, text=f"{n:,}", showarrow=False, font={"color": shade, "size": 11})
    else:
        figure.update_xaxes(tickvals=layers[:: -(-n_layers // 20)], ticktext=layers[:: -(-n_layers // 20)])
    figure.add_hline(0.5, line={"color": INK, "width": 2})
    figure.update_xaxes(title_text="layer").update_yaxes(title_text="kind or language, neurons")
    caption = f"""{_HYPOTHESIS} {len(universal):,} universal and {len(specific):,} language-specific ones of
    {n_layers * d_mlp:,} MLP neurons."""
    details = f"""Chosen by rule {result.rule!r}. First row: universal neurons, which act in every language; the others: each
    language's own."""
    which, part = ("universal neurons", universal) if len(universal) else ("language-specific neurons", specific)
    return finish(
        figure, _where(which, part.layer, n_layers), caption, details=details, height=30 * len(sets), left=160,
        need=260 + 22 * n_layers,
    )  # fmt: skip


def _of_one_language(result: PrivacyNeurons, chosen: pd.DataFrame, layers: list[int]) -> go.Figure:
    (code,), d_mlp = result.languages, result.scores.shape[2]
    counts = chosen.layer.value_counts().reindex(layers, fill_value=0)
    hover = [f"{label(code)}<br>layer {layer}: {n:,} of {d_mlp:,} neurons" for layer, n in counts.items()]
    figure = go.Figure()
    figure.add_bar(
        x=layers, y=list(counts), name=label(code), hovertext=hover, hoverinfo="text", marker_color=colour(code)
    )
    figure.update_layout(bargap=0.15).update_xaxes(range=[-0.6, len(layers) - 0.4], showgrid=False, title_text="layer")
    figure.update_xaxes(dtick=1 if len(layers) <= 36 else None).update_yaxes(title_text="neurons")
    caption = f"""{_HYPOTHESIS} {len(chosen):,} of {result.scores[0].numel():,} MLP neurons, by probes in {language_name(code)}
    alone."""
    details = f"""Chosen by rule {result.rule!r}. Whether they act in further languages was not measured, so none is called
    universal."""
    title = _where(f"{language_name(code)} neurons", chosen.layer, len(layers))
    return finish(figure, title, caption, details=details, height=190, left=70, need=90 + 22 * len(layers))


def _where(which: str, layers: pd.Series, n_layers: int) -> str:
    """State in how few neighbouring layers half of the neurons lie."""
    if layers.empty:
        return f"No {which} were chosen"
    counts = layers.value_counts().reindex(range(n_layers), fill_value=0).to_numpy()
    for width in range(1, n_layers + 1):
        sums = [counts[start : start + width].sum() for start in range(n_layers - width + 1)]
        if 2 * max(sums) >= len(layers):
            start = sums.index(max(sums))
            runs, share = layer_runs(range(start, start + width)), percent(max(sums) / len(layers))
            return f"{share} of the {len(layers):,} {which} lie in {runs} of {n_layers}"
    raise AssertionError("all layers hold all neurons")


class _Shared(NamedTuple):
    """Neurons that are among the strongest of both languages; on the diagonal, of that language alone."""

    shared: float
    n: int


def overlap(result: PrivacyNeurons, *, n_neurons: int | None = None) -> go.Figure:
    """Draw how many of each language's strongest neurons are among those of each other language, beside the level of chance.

    Strong by attribution: whether ablating them acts in these languages, `specificity` shows.

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
    members, total = _members(result, n_neurons), result.scores[0].numel()
    if not any(members.values()):
        raise ValueError("no neuron has a positive score, so no language has a strongest one")
    codes = ordered(result.languages)
    rows = {(y, x): _shared(members, y, x) for y in codes for x in codes}
    chance = n_neurons * n_neurons / total

    def hover(y: str, x: str, cell: Any) -> str:
        if y == x:
            return f"{cell.n:,} of {len(members[y]):,} neurons are {label(y)} alone"
        by_chance = len(members[y]) * len(members[x]) / total
        return f"{label(y)} and {label(x)}<br>{cell.n:,} neurons in both, {by_chance:.2g} by chance"

    top = max(1.0, *(cell.shared for (y, x), cell in rows.items() if y != x))
    figure = matrix(
        rows, codes, codes, value="shared", hover=hover, text=lambda cell: f"{cell.n:,}", low=0, high=top, title="in both",
        white_from=0.7 * top,
    )  # fmt: skip
    ticks = {"tickvals": [chance, top], "ticktext": [f"{chance:.2g} (chance)", f"{top:,.0f}"]}
    figure.update_traces(colorbar=ticks | {"lenmode": "pixels", "len": max(140, 26 * len(codes))})
    figure.update_yaxes(
        ticktext=[f"{label(code)}, {len(members[code]):,}" for code in codes], title_text="language, neurons"
    )
    figure.update_xaxes(title_text="language", tickangle=-35)
    common = len(set.intersection(*members.values()))
    every = "all languages" if len(codes) > 2 else " and ".join(map(language_name, codes))
    caption = f"""Cells: neurons that are among the strongest of both languages; outlined: of that language alone. Two languages'
    sets drawn at random would share {chance:.2g}. The {n_neurons:,} MLP neurons of highest attribution in each language, of
    {total:,}; counts of a choice, hence no interval."""
    details = f"""{common:,} are in {every}. Beyond chance: more than sets drawn at random share in {100 * _LEVEL:g} % of draws
    (hypergeometric)."""
    return finish(
        figure, _shared_title(members, total, n_neurons, chance), caption, details=details, height=30 * len(codes), foot=110,
        left=150, need=270 + 34 * len(codes),
    )  # fmt: skip


_LEVEL = 0.975


def _members(result: PrivacyNeurons, n_neurons: int) -> dict[str, set[int]]:
    """Return each language's strongest neurons as flat indices."""
    found = {}
    for code, scores in zip(result.languages, result.scores.flatten(1), strict=True):
        best = scores.topk(min(n_neurons, scores.numel()))
        found[code] = set(best.indices[best.values > 0].tolist())
    return found


def _shared(members: dict[str, set[int]], y: str, x: str) -> _Shared:
    if y == x:
        alone = members[y] - set().union(*(of for code, of in members.items() if code != y))
        return _Shared(float("nan"), len(alone))
    n = len(members[y] & members[x])
    return _Shared(n, n)


def _shared_title(members: dict[str, set[int]], total: int, n_neurons: int, chance: float) -> str:
    """State how many pairs of languages share more neurons than sets drawn at random do."""
    codes = list(members)
    pairs = [(members[a], members[b]) for i, a in enumerate(codes) for b in codes[i + 1 :]]
    shared = [len(a & b) for a, b in pairs]
    most = [stats.hypergeom(total, len(a), len(b)).ppf(_LEVEL) for a, b in pairs]
    beyond = [n for n, by_chance in zip(shared, most, strict=True) if n > by_chance]
    strongest = f"{n_neurons:,} strongest neurons" if n_neurons > 1 else "strongest neuron"
    if not beyond:
        return f"Languages share no more of their {strongest} than by chance"
    span = f"{min(beyond):,}" if min(beyond) == max(beyond) else f"{min(beyond):,} to {max(beyond):,}"
    if len(pairs) == 1:
        both = joined(map(short_name, codes))
        return f"{both} share {span} of their {strongest}; {chance:.2g} by chance"
    if len(beyond) == len(pairs):
        return f"Each pair of languages shares {span} of its {strongest}; {chance:.2g} by chance"
    found = f"{len(beyond):,} of {len(pairs):,} pairs of languages share"
    return f"{found} {span} of their {strongest}, more than by chance ({chance:.2g})"
