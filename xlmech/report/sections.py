"""Which figures a report has, in which order, and how wide each must be to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from xlmech import figures
from xlmech.report.run_results import EXPORTED, Findings

_NARROW, _MIDDLE, _WIDE = 340, 640, 860
"""Pixels; below them labels of the figure would overlap."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure of a report.

    Attributes:
        name: Unique in the page; letters, digits, - and _.
        figure: With its title and caption.
        need: Least width, px.
    """

    name: str
    figure: go.Figure
    need: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its figures."""

    name: str
    title: str
    figures: tuple[Drawn, ...]


_Draw = tuple[str, Callable[..., go.Figure], int]
_TITLES = {"leakage": "Does it leak?", "inside": "Where inside the model?", "mitigation": "What does deactivation do?"}
_OF_KIND: dict[str, tuple[str, tuple[_Draw, ...]]] = {
    "leakage": (
        "leakage",
        (("by_language", figures.leakage_by_language, _NARROW), ("matrix", figures.leakage_matrix, _WIDE)),
    ),
    "lens": (
        "inside",
        (("per_layer", figures.leakage_per_layer, _MIDDLE), ("lens", figures.lens, _WIDE)),
    ),
    "similarity": ("inside", (("similarity", figures.similarity, _WIDE),)),
    "patching": ("inside", (("patching", figures.patching, _WIDE),)),
    "position_sweep": ("inside", (("positions", figures.patching_positions, _MIDDLE),)),
    "direct_logit": ("inside", (("direct_logit", figures.direct_logit, _WIDE),)),
    "privacy_neurons": (
        "inside",
        (("per_layer", figures.neurons_per_layer, _MIDDLE), ("overlap", figures.overlap, _MIDDLE)),
    ),
    "specificity": ("mitigation", (("matrix", figures.specificity, _WIDE),)),
}


def draw_sections(findings: Findings) -> tuple[list[Section], list[str]]:
    """The sections that have a figure, and a sentence for each figure that could not be drawn."""
    drawn: dict[str, list[Drawn]] = {name: [] for name in _TITLES}
    absent = []
    for name, result in findings.results.items():
        for section, label, draw, need in _wanted(name, result):
            unique = f"plot-{name}-{label}".replace(" ", "-")
            try:
                drawn[section].append(Drawn(name=unique, figure=draw(result), need=need))
            except ValueError as error:
                absent.append(f"{label.replace('_', ' ')} of {name.replace('_', ' ')}: {error}.")
    sections = [
        Section(name=name, title=title, figures=tuple(drawn[name])) for name, title in _TITLES.items() if drawn[name]
    ]
    return sections, absent


def _wanted(name: str, result: Any) -> Iterator[tuple[str, str, Callable[..., go.Figure], int]]:
    """Section, name, function and width of a result's figures."""
    if result.kind == "mitigation":
        yield "mitigation", "before_after", figures.before_after, _NARROW
        yield "mitigation", "cost", figures.cost, _MIDDLE
        if name != EXPORTED and len(set(result.chosen.values())) > 1:
            yield "mitigation", "trade_off", figures.trade_off, _WIDE
        return
    section, wanted = _OF_KIND.get(result.kind, ("", ()))
    for label, draw, need in wanted:
        yield section, label, draw, need
