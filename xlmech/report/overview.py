"""The numbers of a report at a glance: tiles, the matrix of kinds of data and languages, and the table by language."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xlmech.figures.wording import (
    bounds,
    counted,
    joined,
    language_name,
    ordered,
    percent,
    plain,
    rows_of,
    signed_percent,
)
from xlmech.leakage.above_controls import Comparison, Excess, Judgement
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.percent import number
from xlmech.report.mitigation_text import deed
from xlmech.report.run_results import GIVEN, HELD_OUT, RunResults, chosen_effects, chosen_overall

JUDGEMENTS: dict[Judgement, str] = {"leaks": "leaks", "silent": "no leak found", "unclear": "cannot tell"}
MARKS: dict[Judgement, str] = {"leaks": "▲", "silent": "○", "unclear": "?"}
"""Of a judgement where there is no room for words."""
_STEPS = (0.0, 0.25, 0.5, 0.75)
"""Shares above which the severity is the next one."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that a reader sees first: what it is, its value, and in small print its interval and n."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A share of the matrix.

    Attributes:
        text: In percent without the sign; a dash where nothing was asked.
        level: Severity from 0 to 4, -1 where nothing was asked.
        note: On how many questions and people it rests.
    """

    text: str
    level: int
    note: str


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A kind of data, or all kinds together: its cell per language and over all, and whether it leaks."""

    kind: str
    cells: tuple[Cell, ...]
    overall: Cell
    found: Excess


def severity(share: float) -> int:
    """Return the step from 0 to 4 of a share of questions that were extracted, -1 for none asked."""
    return -1 if math.isnan(share) else sum(share > step for step in _STEPS)


def tiles(results: RunResults, found: Comparison) -> Iterator[Tile]:
    """Say what is extracted, by chance and after each remedy, and which public facts are kept; only what was measured."""
    overall = found.overall
    people = counted(overall.n_subjects, "person", "people")
    note = f"{_range(*overall.private[1:])}{people}, {counted(overall.n_probes, 'question', 'questions')}"
    yield Tile(label="extracted", value=percent(overall.private.value), note=note)
    if overall.n_controls and not math.isnan(overall.control.value):
        strangers = counted(overall.n_controls, "person", "people")
        without = f"; without {joined(map(plain, overall.left_out))}" if overall.left_out else ""
        note = f"{_range(*overall.control[1:])}{strangers} whom the model never saw{without}"
        yield Tile(label="by chance", value=percent(overall.control.value), note=note)
    mitigation = results.mitigation
    if mitigation is not None:
        label = "after gates, held-out people" if mitigation.mean_factors else "after ablation"
        yield from _after(mitigation, label)
    given, held_out = results.measured_gates(GIVEN), results.measured_gates(HELD_OUT)
    if given is not None:
        yield from _after(given, "after gates, given people", other_people=True)
    if held_out is not None and not (mitigation is not None and mitigation.mean_factors):
        yield from _after(held_out, "after gates, held-out people")
    if mitigation is not None:
        yield from _kept(mitigation, "public facts kept")
    elif given is not None:
        yield from _kept(given, "public facts kept")


def _after(result: MitigationResult, label: str, *, other_people: bool = False) -> Iterator[Tile]:
    """What is extracted after; of other people than the first tile's, with what was extracted of them before."""
    row = chosen_overall(result, "private")
    if row is None:
        return
    before = f"instead of {percent(row.before)}; " if other_people else ""
    note = f"{before}{_range(row.after_low, row.after_high)}{counted(row.n_subjects, 'person', 'people')}"
    yield Tile(label=label, value=percent(row.after), note=f"{note}; {_neurons(result)}")


def _kept(result: MitigationResult, label: str) -> Iterator[Tile]:
    row = chosen_overall(result, "public")
    if row is None or not row.before:
        return
    note = f"{_range(1 - row.high, 1 - row.low)}{counted(row.n_subjects, 'person', 'people')}; of those known before"
    yield Tile(label=label, value=percent(row.after / row.before), note=note)


def _neurons(result: MitigationResult) -> str:
    name = next(iter(result.chosen))
    return f"{counted(result.chosen[name], 'neuron', 'neurons')} {deed(result, name).split(' (')[0]}"


def _range(low: float, high: float) -> str:
    return "no interval; " if math.isnan(low) or math.isnan(high) else f"{bounds(low, high)} %; "


def matrix(results: RunResults, found: Comparison) -> dict[str, Any]:
    """Return the share of private people's questions that is extracted, by kind of data and query language.

    Whether it leaks is judged per kind and per language, not per cell: too few people stand behind a cell.
    """
    probes = results.leakage.probes
    private = probes[probes.group == "private"]
    codes = ordered(found.languages, results.leakage.plant_language)
    by_cell = {key: _cell(part) for key, part in private.groupby(["attribute", "query_language"], sort=False)}
    nothing = Cell(text="–", level=-1, note="not asked")
    kinds = {str(kind): part for kind, part in private.groupby("attribute", sort=False)}
    rows = [
        MatrixRow(
            kind=plain(kind),
            cells=tuple(by_cell.get((kind, code), nothing) for code in codes),
            overall=_cell(part),
            found=found.kinds[kind],
        )
        for kind, part in sorted(kinds.items(), key=lambda item: (-item[1].extracted.mean(), item[0]))
    ]
    by_language = {str(code): _cell(part) for code, part in private.groupby("query_language", sort=False)}
    total = MatrixRow(
        kind="all kinds",
        cells=tuple(by_language[code] for code in codes),
        overall=_cell(private),
        found=found.overall,
    )
    return {
        "codes": [(code, language_name(code)) for code in codes],
        "rows": rows if len(rows) > 1 else [],
        "total": total,
        "languages": [found.languages[code] for code in codes],
        "marks": MARKS,
        "judgements": JUDGEMENTS,
    }


def beyond_chance(found: Excess) -> str:
    """Write the points beyond chance; a dash where chance is not known."""
    return "–" if math.isnan(found.excess.value) else number(found.excess.value)


def _cell(probes: Any) -> Cell:
    share, n_questions, n_people = float(probes.extracted.mean()), len(probes), probes.subject.nunique()
    note = f"of {counted(n_questions, 'question', 'questions')} about {counted(n_people, 'person', 'people')}"
    return Cell(text=number(share), level=severity(share), note=f"{percent(share)} {note}")


def language_table(results: RunResults, found: Comparison) -> dict[str, Any]:
    """Return what was extracted per query language, beyond chance, and with the neurons ablated."""
    mitigation, languages = results.mitigation, found.languages
    order = ordered(languages, results.leakage.plant_language)
    columns = ["asked in", "extracted", "interval", "control people", "beyond chance", "interval", "judged"]
    rows = []
    for code in order:
        each = languages[code]
        row = [language_name(code), percent(each.private[0]), bounds(*each.private[1:])]
        row.append(percent(each.control[0]) if each.n_controls else "not asked")
        known = not math.isnan(each.excess[0])
        row += [number(each.excess[0]), bounds(*each.excess[1:])] if known else ["not known", ""]
        rows.append([*row, JUDGEMENTS[each.judgement]])
    if mitigation is None or not mitigation.chosen:
        return {"columns": columns, "rows": rows, "ablated": ""}
    name, private = chosen_effects(mitigation, "private")
    after = {row.query_language: row for row in rows_of(private)}
    public = chosen_effects(mitigation, "public")[1].set_index("query_language").reduction
    rise = mitigation.cost[mitigation.cost.condition == name].set_index("query_language").rise
    for code, row in zip(order, rows, strict=True):
        effect = after.get(code)
        row += ["not measured", ""] if effect is None else [percent(effect.after), _reduction(effect)]
        row += [percent(1 - public.get(code, math.nan)), signed_percent(rise.get(code, math.nan))]
    columns += ["after", "reduction", "public facts kept", "NLL"]
    ablated = f"{counted(mitigation.sizes[name], 'neuron', 'neurons')} ({name}) {deed(mitigation, name)}"
    return {"columns": columns, "rows": rows, "ablated": ablated}


def _reduction(row: Any) -> str:
    return f"{percent(row.reduction, 'undefined')} ({row.reason or bounds(row.low, row.high)})"
