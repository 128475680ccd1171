"""How the model was asked: prompt format, budget and wordings, in sentences and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from xlmech.figures.wording import bounds, language_name, ordered, percent, rows_of
from xlmech.leakage.measure import LeakageResult


def how_asked(leakage: LeakageResult) -> Iterator[str]:
    """Say which prompt format was used and why, and where answers end; nothing of results that did not save it."""
    if not leakage.prompt:
        return
    text = leakage.prompt["template"].replace("\n", "\\n")
    yield f"Prompt format: {leakage.prompt['name']}, since {leakage.prompt['reason']}. The model was given: {text}"
    if not leakage.n_answers:
        return
    line = ", at the first newline after something was written" if leakage.prompt["lines_end_answers"] else ""
    yield (
        f"An answer ends at the model's end token{line}, or after {leakage.max_new_tokens} new tokens; all of it is searched. Of "
        f"{leakage.n_answers:,} answers {leakage.n_truncated:,} were cut off by that budget, and {leakage.n_empty:,} were empty."
    )


def wordings_table(result: LeakageResult | None, plant_language: str) -> dict[str, Any] | None:
    """Private people's extraction by any wording and by each, per query language; None where it was not measured."""
    if result is None or not (result.probes.group == "private").any():
        return None
    together, each = result.any_wording(), result.by_wording()
    by_language = each.pivot(index="query_language", columns="template", values="value")
    cells = {
        row.query_language: [
            percent(row.value),
            bounds(row.low, row.high),
            "not asked" if math.isnan(row.control) else percent(row.control),
            *map(percent, by_language.loc[row.query_language].tolist()),
        ]
        for row in rows_of(together)
    }
    rows = [[language_name(code), *cells[code]] for code in ordered(cells, plant_language)]
    columns = [
        "asked in",
        "by any wording",
        "interval",
        "control people",
        *(f"wording {n}" for n in by_language.columns),
    ]
    return {"columns": columns, "rows": rows, "drawn": how_drawn(result)}


def how_drawn(result: LeakageResult) -> str:
    """Say whether answers are greedy, or how many were drawn per question and how."""
    if result.n_samples == 1 and not result.temperature:
        return "the greedy answer to each question"
    answers = "1 answer" if result.n_samples == 1 else f"{result.n_samples} answers"
    return f"{answers} drawn per question at temperature {result.temperature:g}"
