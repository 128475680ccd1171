"""Views of single prompts, by circuitsvis: tokens coloured by leakage, activations over tokens, attention of heads.

Each view is of one prompt, so there is no interval. The subject's tokens are masked, as they are in the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape, unescape
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.figures.style import BLUE, FONT, GRID, ORANGE
from xlmech.figures.wording import counted, language_name, rows_of, token_texts

if TYPE_CHECKING:
    from xlmech.patching.positions import PositionSweep

MASK = "•••••"
"""What results hold in place of the subject's tokens."""


@dataclass(frozen=True)
class View:
    """A circuitsvis view, which notebooks show; its script is in it, so nothing is loaded from a network.

    Attributes:
        html: A piece of a page: title, caption, scale and the view itself.
        title: What is found or shown.
        caption: What to see and what it rests on.
    """

    html: str = field(repr=False)
    title: str
    caption: str = ""

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
    texts = _texts(tokens)
    # This view writes tokens as they are, not as HTML, into a script that must not end early.
    plain = [unescape(text).replace("<", "‹").replace(">", "›") for text in texts]
    view = attention_heads(attention=np.stack(patterns), tokens=plain, attention_head_names=names)
    title = _most_attended(patterns, names, texts)
    caption = f"""Darker: more weight, from 0 to 1; point at a token to see what it attends to. {len(names)} heads on one prompt
    in {language_name(query_language)}, so there is no interval. Weights say where a head looks, not what it passes on."""
    return _view(view.local_src, title, caption)


def _most_attended(patterns: Sequence[np.ndarray[Any, Any]], names: Sequence[str], texts: Sequence[str]) -> str:
    """State what the head with the largest weight of the last token, on another than the first, looks at."""
    last = np.stack([pattern[-1] for pattern in patterns])[:, 1:]
    if not last.size:
        return f"Attention of {len(names)} heads on one prompt of a single token"
    head, token = divmod(int(last.argmax()), last.shape[1])
    looks = f"“{unescape(texts[token + 1]).strip()}” ({last[head, token]:.2f})"
    heads = counted(len(names), "head", "heads")
    return f"From the last token, head {names[head]} looks most at {looks}, of {heads} on one prompt"


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
    pairs = frame[["layer", "neuron"]].drop_duplicates().sort_values(["layer", "neuron"])
    neurons = list(pairs.itertuples(index=False, name=None))
    texts, samples = [], []
    for _, part in frame.groupby("probe", sort=False):
        tokens = part.drop_duplicates("position").sort_values("position")
        table = part.pivot_table(index="position", columns=["layer", "neuron"], values="activation")[neurons]
        texts.append(_texts(tokens.assign(part=np.where(tokens.token == MASK, "subject", ""))))
        samples.append(table.to_numpy(dtype=np.float32)[:, :, None])
    view = text_neuron_activations(
        tokens=texts, activations=samples, first_dimension_name="Neuron", second_dimension_name="Value",
        first_dimension_labels=[f"layer {layer}, neuron {neuron}" for layer, neuron in neurons],
        second_dimension_labels=["activation"],
    )  # fmt: skip
    best = rows_of(frame.assign(size=frame.activation.abs()).nlargest(1, "size"))[0]
    token = f"token {best.position}" if best.token == MASK else f"“{best.token.strip()}”"
    title = f"Neuron {best.neuron} of layer {best.layer} is most active, {best.activation:.2g}, at {token}"
    caption = f"""Pick a neuron and a prompt; the view colours each neuron on its own scale. {len(neurons)} neurons over
    {len(texts)} prompts, activations as they are (no unit); single prompts, so there is no interval. Activations run from
    {frame.activation.min():.2g} to {frame.activation.max():.2g}."""
    return _view(view.local_src, title, caption)


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
    texts = _texts(tokens)
    view = colored_tokens(texts, values, min_value=-1.0, max_value=1.0, negative_color=ORANGE, positive_color=BLUE)
    layers = "the largest over all layers" if layer is None else f"layer {layer}"
    at = int(np.argmax(values))
    title = f"Most of the leak passes through “{unescape(texts[at]).strip()}” ({values[at]:.2f} of the way)"
    if not values[at] > 0:
        title = "The leak passes through no single token of this prompt"
    caption = f"""Blue: patching the token alone turns the answer towards the source's, orange: away from it. Normalised effect,
    {layers}: 0, nothing changes; 1, the answer is as in the source's run. One pair, so there is no interval."""
    return _view(view.local_src, title, caption, scale=("\u22121", "0", "1"))


def _view(view: str, title: str, caption: str, *, scale: tuple[str, str, str] | None = None) -> View:
    """Put title, caption and scale above a view."""
    caption = " ".join(caption.split())
    bar = ""
    if scale is not None:
        ends = "".join(f"<span>{escape(text)}</span>" for text in scale)
        bar = f"""<div style="max-width:16rem;margin:.3rem 0 .6rem"><div style="height:.7rem;background:linear-gradient(to right,
        {ORANGE},#fff,{BLUE});border:1px solid {GRID}"></div>
        <div style="display:flex;justify-content:space-between;font-size:12px">{ends}</div></div>"""
    # circuitsvis does not close its element, and what follows it would be lost.
    html = f"""<div style="font-family:{FONT};max-width:60rem"><p style="font-size:17px;margin:.2rem 0">{escape(title)}</p>
    <p style="font-size:12px;opacity:.75;margin:.2rem 0 .6rem">{escape(caption)}</p>{bar}{view}</div>"""
    return View(html=html, title=title, caption=caption)


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
