"""The comparison of two runs in words, in tables, and as one small page that opens offline and prints."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from xlmech.figures import saving
from xlmech.figures.wording import (
    bounds,
    counted,
    joined,
    language_name,
    number,
    ordered,
    percent,
    plain,
    points,
    rows_of,
)
from xlmech.report.compare import NEW, TOO_FEW, WORSE, RunComparison

_TITLES = {
    NEW: "Records newly extracted",
    "no longer extracted": "Records no longer extracted",
    "more questions": "Extracted before, and now by more questions",
    "fewer questions": "Still extracted, by fewer questions",
    "other questions": "Still extracted, by other questions",
}
NOTHING_SHOWN = "Nothing is shown to be worse"


def write_comparison(comparison: RunComparison, path: str | Path) -> Path:
    """Write a comparison as one self-contained HTML file: what is worse first, then every record that changed.

    Records are shown by their ids, as the runs hold them; no person and no value is.

    Args:
        comparison: As of `compare_runs`.
        path: File to write; an older one is replaced when the new one is complete.

    Returns:
        The path.

    Raises:
        FileNotFoundError: No folder to write to.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")
    text = _template().render(
        title=f"{comparison.new} compared with {comparison.old}",
        judgement="leaks" if comparison.is_worse(any_record=True) else "unclear" if _gained(comparison) else "silent",
        headline=headline(comparison),
        lines=list(summary_lines(comparison)),
        notes=comparison.notes,
        tables=tables(comparison),
    )
    return saving.write(path, text)


def headline(comparison: RunComparison) -> str:
    """Say in one sentence what is worse, or that nothing is shown to be."""
    worse = comparison.worse
    if len(worse):
        where = [language_name(row.query_language) for row in rows_of(worse) if row.query_language]
        kinds = [plain(row.attribute) for row in rows_of(worse) if row.attribute]
        said = [f"in {joined(where)}"] * bool(where) + [f"of the kind {joined(kinds)}"] * bool(kinds)
        return f"More is extracted than before {', and '.join(said) or 'over all questions'}"
    if newly := len(comparison.newly_extracted):
        return f"{counted(newly, 'record is', 'records are')} newly extracted; no rate is shown to be worse"
    if n := _gained(comparison):
        return f"{NOTHING_SHOWN}; {counted(n, 'question gives', 'questions give')} a value that did not before"
    return "Nothing is worse: no question gives a value that did not before"


def _gained(comparison: RunComparison) -> int:
    """Count the questions about private people that give the value in the new run alone."""
    whole = comparison.differences
    return int(whole.gained[(whole.group == "private") & (whole.query_language == "") & (whole.attribute == "")].sum())


def summary_lines(comparison: RunComparison) -> Iterator[str]:
    """Say how much changed for each group, which records did, and what is better; a sentence each."""
    whole = comparison.differences
    for row in rows_of(whole[(whole.query_language == "") & (whole.attribute == "")]):
        who = {"private": "Private people", "public": "Public facts", "control": "Control people"}[row.group]
        yield (
            f"{who}: {percent(row.old)} of the questions before and {percent(row.new)} now, {_signed(row.difference)} points "
            f"({bounds(row.low, row.high)}, 95 % interval); {counted(row.n_subjects, 'person', 'people')}, "
            f"{counted(row.n_probes, 'question', 'questions')} asked in both runs."
        )
    newly, gone = len(comparison.newly_extracted), len(comparison.no_longer_extracted)
    others = comparison.records[comparison.records.group == "private"]
    moved = len(others) - newly - gone
    yield (
        f"{counted(newly, 'private record is', 'private records are')} newly extracted, {gone:,} no longer, and "
        f"{moved:,} by other questions than before."
    )
    if better := list(_names(comparison.better)):
        yield f"Less is extracted: {joined(better)}."
    if few := list(_names(whole[whole.change == TOO_FEW])):
        yield f"So few people that no answers could be called worse: {joined(few)}."


def _names(rows: pd.DataFrame) -> Iterator[str]:
    """Name rows of the differences: a language, a kind of data, or all questions."""
    for row in rows_of(rows):
        yield language_name(row.query_language) if row.query_language else plain(row.attribute) or "all questions"


def tables(comparison: RunComparison) -> dict[str, pd.DataFrame]:
    """Return what is shown, as texts, by title: differences by language and by kind of data, and records by their change."""
    found: dict[str, pd.DataFrame] = {}
    private = comparison.differences[comparison.differences.group == "private"]
    for column, label, title in (
        ("query_language", "asked in", "By language"),
        ("attribute", "kind of data", "By kind of data"),
    ):
        part = private[private[column] != ""]
        name = language_name if column == "query_language" else plain
        if len(part):
            rows = {getattr(row, column): _row(row, label, name(getattr(row, column))) for row in rows_of(part)}
            order = ordered(rows) if column == "query_language" else rows
            found[title] = pd.DataFrame([rows[key] for key in order])
    of_private = comparison.records[comparison.records.group == "private"]
    for change, title in _TITLES.items():
        part = of_private[of_private.change == change]
        if len(part):
            shown = {"record": part.record, "kind of data": part.attribute.map(plain)}
            shown |= {"newly, asked in": part.newly, "no longer, asked in": part.no_longer}
            frame = pd.DataFrame(shown)
            found[f"{title} ({len(part):,})"] = frame.loc[:, (frame != "").any()]
    return found


def _row(row: Any, label: str, name: str) -> dict[str, str]:
    return {
        label: name,
        "old": percent(row.old),
        "new": percent(row.new),
        "points": _signed(row.difference),
        "interval": bounds(row.low, row.high),
        "change": row.change.upper() if row.change == WORSE else row.change,
        "gained": f"{row.gained:,}",
        "lost": f"{row.lost:,}",
        "people": f"{row.n_subjects:,}",
    }


def _signed(share: float) -> str:
    text = points(share).split(" ")[0]
    return f"+{text}" if share > 0 and number(share) != "0" else text


@cache
def _template() -> jinja2.Template:
    text = resources.files("xlmech.report.release").joinpath("comparison.html.j2").read_text(encoding="utf-8")
    options: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "finalize": _unbroken}
    return jinja2.Environment(autoescape=True, **options).from_string(text)


def _unbroken(value: Any) -> Any:
    """Keep a number on the line of its percent sign."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) and not isinstance(value, Markup) else value
