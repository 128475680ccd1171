"""Which figures a report has, in which order, and how wide each must be to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import plotly.graph_objects as go

from xlmech import figures
from xlmech.figures.wording import plain
from xlmech.report.run_results import EXPORTED, GIVEN, HELD_OUT, REGIMES, WORDINGS, RunResults

_NARROW, _MIDDLE, _WIDE = 340, 640, 860
"""Pixels; below them labels of the figure would overlap."""
_TITLES = {
    "leakage": "Does it leak?",
    "inside": "Where inside the model?",
    "mitigation": "What does ablation do?",
    "gates": "What do gates do?",
}
_Drawing = tuple[str, str, Callable[..., go.Figure], int]
"""Section, name, function and least width of a figure."""


def _if_several(draw: Callable[..., go.Figure], table: str) -> Callable[..., go.Figure]:
    """Return `draw` for results whose table has several query languages; with one there is nothing to compare."""

    def draw_several(result: Any) -> go.Figure:
        if getattr(result, table).query_language.nunique() < 2:
            raise ValueError("it compares query languages, and one alone was asked")
        return draw(result)

    return draw_several


_DRAWINGS: dict[str, list[_Drawing]] = {
    "leakage": [
        ("leakage", "by_language", figures.leakage_by_language, _NARROW),
        ("leakage", "matrix", _if_several(figures.leakage_matrix, "probes"), _WIDE),
    ],
    "similarity": [("inside", "similarity", figures.similarity, _WIDE)],
    "patching": [("inside", "patching", figures.patching, _WIDE)],
    "position_sweep": [("inside", "positions", figures.patching_positions, _MIDDLE)],
    "direct_logit": [("inside", "direct_logit", figures.direct_logit, _WIDE)],
    "privacy_neurons": [
        ("inside", "per_layer", figures.neurons_per_layer, _MIDDLE),
        ("inside", "overlap", figures.overlap, _MIDDLE),
    ],
    "mitigation": [
        ("mitigation", "before_after", figures.before_after, _NARROW),
        ("mitigation", "cost", figures.cost, _MIDDLE),
    ],
    "specificity": [("mitigation", "matrix", figures.specificity, _WIDE)],
}


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


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A figure that is not drawn yet.

    Attributes:
        result: Name of the result.
        label: What it shows of it.
        section: Key of the section it belongs to.
        draw: Draws it; ValueError where that cannot be done.
        need: Least width, px.
    """

    result: str
    label: str
    section: str
    draw: Callable[[], go.Figure]
    need: int

    @property
    def title(self) -> str:
        """What it shows of which result, in words."""
        return f"{plain(self.label)} of {plain(self.result)}"


def planned_figures(results: RunResults, *, hide_ids: bool = False) -> list[Planned]:
    """List the figures of a run without drawing them.

    Args:
        results: Results of a run.
        hide_ids: Whether a code stands for each record's id in hover labels.
    """
    return [
        Planned(result=name, label=label, section=section, draw=partial(draw, result), need=need)
        for name, result in results.results.items()
        for section, label, draw, need in _drawings(name, result, hide_ids=hide_ids)
    ]


def draw_sections(results: RunResults, *, hide_ids: bool = False) -> tuple[list[Section], list[str]]:
    """Draw the sections that have a figure, and say for each figure that could not be drawn why.

    Args:
        results: Results of a run.
        hide_ids: Whether a code stands for each record's id in hover labels.
    """
    drawn: dict[str, list[Drawn]] = {name: [] for name in _TITLES}
    not_drawn = []
    for one in planned_figures(results, hide_ids=hide_ids):
        try:
            unique = f"plot-{one.result}-{one.label}".replace(" ", "-")
            drawn[one.section].append(Drawn(name=unique, figure=one.draw(), need=one.need))
        except ValueError as error:
            not_drawn.append(f"{one.title}: {error}.")
    sections = [
        Section(name=name, title=title, figures=tuple(drawn[name])) for name, title in _TITLES.items() if drawn[name]
    ]
    return sections, not_drawn


def _drawings(name: str, result: Any, *, hide_ids: bool) -> Iterator[_Drawing]:
    if name == WORDINGS or (name == EXPORTED and result.mean_factors):
        return  # shown as a table, or drawn as what the exported gates do to held-out people
    if name in REGIMES:
        yield "gates", "before_after", partial(figures.before_after, people=REGIMES[name]), _NARROW
        if name in (GIVEN, HELD_OUT):  # the others have neither public people nor neutral text
            yield "gates", "cost", partial(figures.cost, people=REGIMES[name]), _MIDDLE
        return
    if result.kind == "lens":
        per_layer = partial(figures.leakage_per_layer, hide_ids=hide_ids)
        yield "inside", "per_layer", _if_several(per_layer, "readings"), _NARROW
        yield "inside", "lens", figures.lens, _WIDE
    yield from _DRAWINGS.get(result.kind, [])
    if result.kind == "mitigation" and name != EXPORTED and len(set(result.chosen.values())) > 1:
        yield "mitigation", "trade_off", figures.trade_off, _WIDE
