"""Where the chosen neurons lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlmech.figures.style import INK, colour, finish, label, ordered

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
