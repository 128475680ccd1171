"""Write what a state shows as small HTML tables; no widgets, no model. Texts of models and files are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from xlmech.figures.style import BLUE, GREY, ORANGE, faded
from xlmech.figures.token_views import token_effects
from xlmech.figures.wording import language_name, rows_of, short_name, signed_percent, token_texts
from xlmech.neurons.neuron_set import Neuron, NeuronSet
from xlmech.patching.positions import PositionSweep

_TABLE = "border-collapse:collapse;font:12px/1.5 sans-serif;width:100%"
_COPY = "navigator.clipboard.writeText(this.nextElementSibling.innerText)"
_CELL = "padding:2px 8px;text-align:left;white-space:nowrap"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of HTML cells."""
    first = "".join(f'<th style="{_CELL};border-bottom:1px solid {GREY}">{text}</th>' for text in head)
    lines = ["".join(f'<td style="{_CELL}">{text}</td>' for text in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="{_TABLE}"><tr>{first}</tr>{body}</table>'


def copied(what: str, code: str) -> str:
    """Write code with a button that copies it."""
    style = "white-space:pre-wrap;background:#f6f6f6;padding:6px;margin:2px 0 8px;font-size:11px;line-height:1.4"
    button = f'<button onclick="{_COPY}" title="copy">copy</button>'
    return f'<div>Python of {what} {button}<pre style="{style}">{escape(code)}</pre></div>'


def answers(frame: pd.DataFrame, cost: pd.DataFrame | None, *, ablated: bool, reveal: bool) -> str:
    """Write the answers in all languages, their probabilities, and the fluency cost, before and after an ablation.

    Args:
        frame: As of `Circuit.answers`.
        cost: As of `Circuit.cost`; None while it is computed.
        ablated: Whether neurons are ablated; without, there is no "after".
        reveal: Whether the answers' texts are shown.
    """
    rises = {} if cost is None else dict(zip(cost.query_language, cost.rise, strict=True))
    after = ["answers", "probability", "loss on neutral text"] if ablated else []
    head = ["asked in", "answers", "probability", *(f"after: {name}" for name in after)]
    rows = []
    for row in rows_of(frame):
        cells = [escape(language_name(row.query_language)), _said(row, "_before", reveal), _bar(row.prob_before, GREY)]
        if ablated:
            change = BLUE if row.prob <= row.prob_before else ORANGE
            cells += [_said(row, "", reveal), _bar(row.prob, change)]
            cells.append(signed_percent(rises[row.query_language]) if rises else "…")
        rows.append(cells)
    return table(head, rows)


def _said(row: Any, suffix: str, reveal: bool) -> str:
    """Say what an answer is: the value in some language's form, something else, or nothing."""
    names = ("extracted", "answer_language", "empty", "truncated", "answer")
    extracted, language, empty, is_cut, text = (getattr(row, f"{name}{suffix}") for name in names)
    if extracted:
        own = language == row.query_language
        words = "<b>the value</b>" if own else f"<b>the value, in {escape(short_name(language))}</b>"
    else:
        words = "nothing" if empty else "something else, cut off" if is_cut else "something else"
    return f"{words}: {escape(str(text).strip())}" if reveal else words


def _bar(prob: float, shade: str) -> str:
    """Write a probability with a bar of its length; one too small for three decimals as a power of ten."""
    shown = f"{prob:.3f}" if prob >= 0.0005 or prob == 0 else f"{prob:.0e}"
    bar = f"display:inline-block;height:9px;width:{round(60 * prob)}px;background:{shade};margin-right:6px"
    return f'<span style="display:inline-block;width:66px"><span style="{bar}"></span></span>{shown}'


def neuron_row(
    row: Any,
    *,
    exact: Mapping[Neuron, float] | None,
    raised: Mapping[Neuron, Sequence[str]] | None,
    public: Mapping[Neuron, float] | None,
    languages: Mapping[str, NeuronSet] | None,
) -> str:
    """Write what is known of one ranked neuron; what was not computed is left out."""
    pair = (int(row.layer), int(row.neuron))
    parts = [f"effect <b>{row.effect:+.3f}</b>"]
    if exact is not None:
        parts.append(f"exact <b>{exact[pair]:+.3f}</b>")
    if public is not None:
        parts.append(f"public facts {public[pair]:.2f}")
    if languages is not None:
        own = [code for code, chosen in languages.items() if pair in chosen]
        parts.append(f"neuron of {', '.join(own)}" if own else "of no language")
    if raised is not None:
        parts.append("raises " + " ".join(f"<code>{escape(token)}</code>" for token in raised[pair]))
    return f'<span style="font:12px/1.4 sans-serif">{" &nbsp; ".join(parts)}</span>'


def contributions(sweeps: Mapping[str, PositionSweep | str], training: str = "") -> str:
    """Write the prompt of each language with its tokens coloured by what passes through them, a row per language.

    Args:
        sweeps: Of each language, or the reason why there is none.
        training: Training language, which is set in bold.
    """
    rows = []
    for code, sweep in sweeps.items():
        name = escape(language_name(code))
        name = f"<b>{name}</b>" if code == training else name
        tokens = escape(sweep) if isinstance(sweep, str) else _tokens(sweep)
        rows.append([name, f'<div style="white-space:normal">{tokens}</div>'])
    return table(["asked in", "tokens of the prompt"], rows)


def _tokens(sweep: PositionSweep) -> str:
    effects = token_effects(sweep)
    texts = token_texts(sweep.tokens)
    spans = []
    for text, value in zip(texts, effects.tolist(), strict=True):
        shade = faded(BLUE if value >= 0 else ORANGE, round(min(1.0, abs(value)), 3))
        ink = "white" if abs(value) > 0.55 else "inherit"
        shown = escape(text).replace(" ", "\u00a0") or "∅"
        style = f"background:{shade};color:{ink};padding:1px 3px;margin:1px;border-radius:2px;display:inline-block"
        spans.append(f'<span style="{style}" title="{value:+.3f}">{shown}</span>')
    return "".join(spans)
