"""Views of single prompts, by circuitsvis: tokens coloured by leakage or activation, attention of heads.

Each view is of one prompt, so there is no interval. The subject's tokens are masked, as they are in the results.
"""

from __future__ import annotations

import math
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
    top = _top(patterns)
    view = attention_heads(
        attention=np.stack(patterns).round(3), tokens=plain, attention_head_names=names, min_value=-top, max_value=top,
        negative_color=ORANGE, positive_color=BLUE,
    )  # fmt: skip
    title = _most_attended(patterns, names, texts)
    caption = f"""Bluer: more weight of the token of the row on that of the column; point at a small map to see it large, at a
    cell for its weight. {counted(len(names), "head", "heads")} on one prompt in {language_name(query_language)}, so there is no
    interval. Grey: later tokens, which none can see. Weights say where a head looks, not what it passes on."""
    return _view(view.local_src, title, caption, scale=_Scale(colours=("#fff", BLUE), ends=("0", f"{top:g} and more")))


def _top(patterns: Sequence[np.ndarray[Any, Any]]) -> float:
    """Return the weight that ends the scale: the largest on another token than the first, which many heads rest on."""
    largest = max((float(pattern[:, 1:].max()) for pattern in patterns if pattern.shape[1] > 1), default=1.0)
    return min(1.0, math.ceil(10 * largest - 1e-6) / 10) or 1.0


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
    """Show each prompt once per neuron, its tokens coloured by the neuron's activation.

    Every neuron has a scale of its own, from minus to plus its largest activation in size on the prompts shown.

    Args:
        result: Of a few neurons and prompts.
        languages: Query languages of the prompts to show; all by default.

    Raises:
        ValueError: The result has no prompt in these languages.
    """
    frame = result.to_frame()
    known = tuple(frame.query_language.unique())
    if languages is not None:
        frame = frame[frame.query_language.isin(check_choices("language", languages, known))]
    if frame.empty:
        raise ValueError(f"no prompts to show; this result has some in {', '.join(known) or 'no language'}")
    frame = frame.assign(size=frame.activation.abs())
    largest = frame.groupby(["layer", "neuron"])["size"].max().to_dict()
    rows: list[_Row] = []
    for number, (_, part) in enumerate(frame.groupby("probe", sort=False), start=1):
        heading = f"Prompt {number}, {language_name(part.query_language.iloc[0])}"
        for (layer, neuron), of_neuron in part.groupby(["layer", "neuron"]):
            tokens = of_neuron.sort_values("position")
            texts = _texts(tokens.assign(part=np.where(tokens.token == MASK, "subject", "")))
            values = [float(f"{value:.3g}") for value in tokens.activation]
            top = float(largest[layer, neuron]) or 1.0
            rows.append(
                _Row(heading=heading, name=f"layer {layer}, neuron {neuron}", texts=texts, values=values, top=top)
            )
            heading = ""
    best = rows_of(frame.nlargest(1, "size"))[0]
    token = f"token {best.position}" if best.token == MASK else f"“{best.token.strip()}”"
    title = f"Neuron {best.neuron} of layer {best.layer} is most active, {best.activation:.3g}, at {token}"
    neurons, prompts = counted(len(largest), "neuron", "neurons"), counted(frame.probe.nunique(), "prompt", "prompts")
    caption = f"""Blue: active, orange: negative. Each neuron has its own scale, which ends at its largest activation in size, in
    brackets; point at a token for its activation. {neurons} over {prompts}, activations as they are (no unit), from
    {frame.activation.min():.3g} to {frame.activation.max():.3g}; single prompts, so there is no interval."""
    scale = _Scale(colours=(ORANGE, "#fff", BLUE), ends=("\u2212 largest", "0", "largest of the neuron"))
    return _view(_stacked(rows), title, caption, scale=scale)


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
    return _view(
        view.local_src, title, caption, scale=_Scale(colours=(ORANGE, "#fff", BLUE), ends=("\u22121", "0", "1"))
    )


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Colours of a scale from its low to its high end, and what stands below it."""

    colours: tuple[str, ...]
    ends: tuple[str, ...]


def _view(view: str, title: str, caption: str, *, scale: _Scale) -> View:
    """Put title, caption and scale above a view."""
    caption = " ".join(caption.split())
    ends = "".join(f"<span>{escape(text)}</span>" for text in scale.ends)
    bar = f"""<div style="max-width:16rem;margin:.3rem 0 .6rem"><div style="height:.7rem;border:1px solid {GRID};
    background:linear-gradient(to right,{",".join(scale.colours)})"></div>
    <div style="display:flex;justify-content:space-between;font-size:12px">{ends}</div></div>"""
    # circuitsvis does not close its element, and what follows it would be lost.
    html = f"""<div style="font-family:{FONT};max-width:60rem"><p style="font-size:17px;margin:.2rem 0">{escape(title)}</p>
    <p style="font-size:12px;opacity:.75;margin:.2rem 0 .6rem">{escape(caption)}</p>{bar}{view}</div>"""
    return View(html=html, title=title, caption=caption)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Coloured tokens: what stands above and beside them, and the value at which the scale ends."""

    heading: str
    name: str
    texts: list[str]
    values: list[float]
    top: float


def _stacked(rows: Sequence[_Row]) -> str:
    """Render rows of coloured tokens by one copy of circuitsvis' script, which is more than a megabyte."""
    from circuitsvis.tokens import colored_tokens

    body, script, calls = [], "", []
    for row in rows:
        page = colored_tokens(
            row.texts, row.values, min_value=-row.top, max_value=row.top, negative_color=ORANGE, positive_color=BLUE
        ).local_src
        element = page[page.index('"') + 1 : page.index('" ')]
        start, end = page.rindex(f'CircuitsVis.render(\n      "{element}"'), page.rindex("</script>")
        script, call = page[page.index("<script") : start], page[start:end]
        calls.append(call)
        heading = f'<p style="font-size:13px;font-weight:600;margin:.8rem 0 .2rem">{escape(row.heading)}</p>'
        body.append(
            f"""{heading if row.heading else ""}<div style="display:flex;flex-wrap:wrap;align-items:baseline;gap:0 .8rem">
            <span style="font-size:12px;flex:0 0 13rem">{escape(row.name)} ({row.top:.3g})</span>
            <div id="{element}" style="flex:1 1 20rem"></div></div>"""
        )
    return f"{''.join(body)}{script}{';'.join(calls)}</script>"


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
