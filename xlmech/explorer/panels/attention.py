"""Attention: the heads that carry the answer, and the tokens of each language's prompt by which it comes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import ipywidgets as widgets
import pandas as pd

from xlmech.engine.token_spans import token_table
from xlmech.explorer import tables
from xlmech.explorer.circuit import N_HEADS, Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.panels.base import Change, Panel
from xlmech.explorer.state import ExplorerState
from xlmech.figures.token_views import attention
from xlmech.figures.wording import rows_of
from xlmech.models.backends import backend_of
from xlmech.patching.heads import top_heads
from xlmech.patching.positions import PositionSweep

_CAPTION = """The other record's prompt with its activations at one token patched by this record's, in the same language: 0
(white) nothing changes, 1 (blue) the answer becomes this record's; the largest effect over the layers. Of the name's tokens
only the number is shown."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Patterns:
    """What `figures.attention` draws.

    Attributes:
        attention: As of `attention_patterns`.
        tokens: The prompt's tokens, with `query_language`.
        languages: The language that is looked at.
    """

    attention: pd.DataFrame
    tokens: pd.DataFrame
    languages: tuple[str, ...]


class Attention(Panel):
    """circuitsvis' view of the carrying heads, and the coloured tokens of every language."""

    title = "Attention"
    code: CodeName = "attention"

    def __init__(self, circuit: Circuit, change: Change) -> None:
        super().__init__(circuit, change)
        self.heads, self.view, self.rows = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.all_languages = widgets.Checkbox(
            description="input tokens in every language (one patching map each)", indent=False, layout={"width": "auto"}
        )
        self.all_languages.observe(lambda _: self.again(), "value")
        self.box.children = (self.message, self.heads, self.view, self.all_languages, self.rows)

    def draw(self, state: ExplorerState) -> None:
        """Draw the heads' attention and the tokens."""
        best = top_heads(self.circuit.heads(state), N_HEADS)
        named = ", ".join(f"L{row.layer}H{row.head} ({row.change:+.2f})" for row in rows_of(best))
        moved = best.change.max() >= 0.005  # what is shown as more than 0
        self.heads.value = (
            f"No head's output moves the answer towards this record's value (patched from {state.source} into "
            f"{state.language}); the first of them: {named}"
            if not moved
            else f"Heads whose output moves the answer most towards this record's value, in nats (patched from "
            f"{state.source} into {state.language}): {named}"
        )
        self.view.value = _framed(attention(self._patterns(state), state.language).html)
        codes = state.languages if self.all_languages.value else (state.language,)
        sweeps = {code: self._contributions(state, code) for code in codes}
        style = "color:#555;max-width:70em;margin-top:6px;line-height:1.4;white-space:normal"
        caption = f'<div style="{style}">{_CAPTION}</div>'
        self.rows.value = tables.contributions(sweeps, self.circuit.questions.plant_language) + caption

    def _patterns(self, state: ExplorerState) -> Patterns:
        tokens = token_table(backend_of(self.circuit.model), self.circuit.questions.probe(state))
        patterns = self.circuit.attention(state)
        tokens = tokens[tokens.position <= patterns.destination.max()]
        return Patterns(
            attention=patterns, tokens=tokens.assign(query_language=state.language), languages=(state.language,)
        )

    def _contributions(self, state: ExplorerState, code: str) -> PositionSweep | str:
        try:
            return self.circuit.contributions(state, code)
        except ValueError as error:
            return str(error)


def _framed(html: str, height: int = 960) -> str:
    """Put a piece of a page with scripts in a frame of its own, where they run."""
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{escape(html)}"></iframe>'
