"""Views of single prompts, by circuitsvis: tokens coloured by leakage, activations over tokens, attention of heads.

Each view is of one prompt, so there is no interval. The subject's tokens are masked, as they are in the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.figures.style import BLUE, ORANGE
from xlmech.figures.wording import token_texts

if TYPE_CHECKING:
    from xlmech.patching.positions import PositionSweep

MASK = "•••••"
"""What results hold in place of the subject's tokens."""


@dataclass(frozen=True)
class View:
    """A circuitsvis view, which notebooks show; its script is in it, so nothing is loaded from a network.

    Attributes:
        html: A piece of a page.
        title: What is shown.
    """

    html: str = field(repr=False)
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.html


class Attention(Protocol):
    """A result with attention patterns, as `RecordTrace`."""

    @property
    def attention(self) -> pd.DataFrame:
        """`query_language`, `layer`, `head`, `destination`, `source`, `weight`."""

    @property
    def tokens(self) -> pd.DataFrame:
        """`query_language`, `position`, `part`, `token` (masked in the subject)."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Query languages."""


def attention(trace: Attention, query_language: str) -> View:
    """Show the attention of the top heads on the record's prompt in one language.

    Raises:
        ValueError: The trace has no such language.
    """
    from circuitsvis.attention import attention_heads

    check_choice("language", query_language, trace.languages)
    frame = trace.attention[trace.attention.query_language == query_language]
    tokens = trace.tokens[trace.tokens.query_language == query_language]
    patterns, names = [], []
    for (layer, head), part in frame.groupby(["layer", "head"], sort=False):
        pattern = np.zeros((len(tokens), len(tokens)), dtype=np.float32)
        pattern[part.destination, part.source] = part.weight
        patterns.append(pattern)
        names.append(f"L{layer}H{head}")
    view = attention_heads(attention=np.stack(patterns), tokens=_texts(tokens), attention_head_names=names)
    return View(html=view.local_src, title=f"attention of {len(names)} heads, asked in {query_language}")


class Activations(Protocol):
    """A result with activations over tokens, as `NeuronActivations`."""

    def to_frame(self) -> pd.DataFrame:
        """`probe`, `query_language`, `position`, `token` (masked in the subject), `layer`, `neuron`, `activation`."""


def neuron_activations(result: Activations, *, languages: Sequence[str] | None = None) -> View:
    """Show the activation of each neuron at each token of the prompts; prompt, layer and neuron are picked in the view.

    Args:
        result: Of a few neurons and prompts.
        languages: Query languages of the prompts to show; all by default.

    Raises:
        ValueError: The result has no prompt in these languages.
    """
    from circuitsvis.activations import text_neuron_activations

    frame = result.to_frame()
    known = tuple(frame.query_language.unique())
    if languages is not None:
        frame = frame[frame.query_language.isin(check_choices("language", languages, known))]
    if frame.empty:
        raise ValueError(f"no prompts to show; this result has some in {', '.join(known) or 'no language'}")
    layers = sorted(frame.layer.unique())
    indices = {layer: sorted(frame.neuron[frame.layer == layer].unique()) for layer in layers}
    n_neurons = max(map(len, indices.values()))
    texts, samples = [], []
    for _, part in frame.groupby("probe", sort=False):
        tokens = part.drop_duplicates("position").sort_values("position")
        values = np.zeros((len(tokens), len(layers), n_neurons), dtype=np.float32)
        table = part.pivot_table(index="position", columns=["layer", "neuron"], values="activation")
        for i, layer in enumerate(layers):
            values[:, i, : len(indices[layer])] = table[layer][indices[layer]].to_numpy()
        texts.append(_texts(tokens.assign(part=np.where(tokens.token == MASK, "subject", ""))))
        samples.append(values)
    names = [f"{layer} (neurons {', '.join(map(str, of))})" for layer, of in indices.items()]
    view = text_neuron_activations(tokens=texts, activations=samples, first_dimension_labels=names)
    n_neurons = sum(map(len, indices.values()))
    return View(html=view.local_src, title=f"activations of {n_neurons} neurons over {len(texts)} prompts")


def leaking_tokens(sweep: PositionSweep, *, layer: int | None = None) -> View:
    """Show the target's prompt, each token coloured by how much of the leak passes through it.

    The colour is the normalised effect of patching the token alone: 0, nothing changes; 1, the answer is as in the source's run.

    Args:
        sweep: Of one pair.
        layer: Layer that was patched; by default the largest effect over the layers.

    Raises:
        ValueError: The sweep has no such layer.
    """
    from circuitsvis.tokens import colored_tokens

    tokens, values = sweep.tokens.sort_values("position"), token_effects(sweep, layer=layer)
    view = colored_tokens(
        _texts(tokens), values, min_value=-1.0, max_value=1.0, negative_color=ORANGE, positive_color=BLUE
    )
    layers = "all layers" if layer is None else f"layer {layer}"
    return View(html=view.local_src, title=f"tokens coloured by leakage, {layers}")


def token_effects(sweep: PositionSweep, *, layer: int | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the normalised effect of patching each token of the target's prompt alone, in order; 0 where it is not defined.

    Args:
        sweep: Of one pair.
        layer: Layer that was patched; by default the largest effect over the layers.

    Raises:
        ValueError: The sweep has no such layer.
    """
    effects = sweep.effects
    if layer is not None:
        effects = effects[effects.layer == layer]
        if effects.empty:
            known = sorted(sweep.effects.layer.unique())
            raise ValueError(f"no layer {layer} in this sweep; it has {known[0]} to {known[-1]}")
    largest = effects.groupby("position").normalised.max()
    return largest.reindex(sweep.tokens.position.sort_values()).fillna(0).to_numpy(dtype=float)


def _texts(tokens: pd.DataFrame) -> list[str]:
    """What is shown of each token; circuitsvis writes it into the page as HTML."""
    parts = tokens.sort_values("position").part
    return [
        f"[{text}]" if part == "subject" else escape(text)
        for part, text in zip(parts, token_texts(tokens), strict=True)
    ]
