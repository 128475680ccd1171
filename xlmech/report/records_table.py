"""The table of a report's private records: in which languages and forms each was extracted, before and after a remedy.

The page shows some rows and holds all of them, which a script of the page sorts, filters and writes as CSV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from xlmech.figures.wording import language_name, masked, ordered, percent, plain
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.report.overview import severity
from xlmech.report.run_results import HELD_OUT, RunResults

if TYPE_CHECKING:
    from xlmech.data.records import Record

MAX_ROWS = 200
"""Records that the page shows at a time; the file must stay small, and a browser quick."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its heading, its name in the CSV file, and whether its cells sort by the number they begin with."""

    title: str
    name: str
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordsTable:
    """All private records of a run as text.

    Attributes:
        columns: Columns.
        rows: A cell per column, and then the code that stands for it where ids are hidden; the most extracted first.
        kinds: Kinds of data that occur, and the place of their column.
        languages: Query languages by code, and the place of the column that lists those in which a record was extracted.
        severity: Place of the column of severity.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[int, tuple[str, ...]]
    languages: tuple[int, tuple[tuple[str, str], ...]]
    severity: int

    @property
    def shown(self) -> list[tuple[tuple[str, int], ...]]:
        """The first rows: cells with the level of severity, -1 where a cell has none."""
        return [tuple(self._cells(row)) for row in self.rows[:MAX_ROWS]]

    def _cells(self, row: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        for place, text in enumerate(row[: len(self.columns)]):
            level = severity(float(text.removesuffix(" %")) / 100) if place == self.severity else -1
            yield text, level


def records_table(
    results: RunResults, *, hide_ids: bool = False, people: Mapping[str, Record] | None = None
) -> RecordsTable:
    """List all private records, with their own ids or with codes in their place.

    Args:
        results: Results of a run.
        hide_ids: Whether a code stands for each id.
        people: Records by id, of which person and value are shown.
    """
    probes = results.leakage.probes
    private = probes[probes.group == "private"]
    training = results.leakage.plant_language
    by_record = private.groupby("record", sort=False)
    asked, hits, shares = by_record.size(), by_record.extracted.sum(), by_record.extracted.mean()
    kinds = by_record.attribute.first()
    hit = private[private.extracted > 0].groupby("record", sort=False)
    languages = hit.query_language.agg(lambda codes: " ".join(ordered(codes, training))).to_dict()
    forms = dict(_forms(private[private.extracted > 0], training))
    measured = [(column, _after(result)) for column, result in remedies(results)]
    columns = [Column(title="record", name="record"), Column(title="kind of data", name="kind")]
    if people:
        columns[1:1] = [Column(title="person", name="person"), Column(title="value", name="value")]
    at_kind = len(columns) - 1
    columns += [
        Column(title="severity", name="severity", is_number=True),
        Column(title="before", name="before", is_number=True),
        *(column for column, _ in measured),
        Column(title="extracted in", name="languages"),
        Column(title="forms", name="forms"),
    ]
    rows = []
    for record in sorted(shares.index, key=lambda record: (-shares[record], str(record))):
        name, code = str(record), masked(str(record))
        row = [code if hide_ids else name, plain(kinds[record])]
        if people:
            person = people.get(name)
            row[1:1] = [person.subject, person.value] if person else ["not among the records given", ""]
        row += [percent(shares[record]).replace("\u2212", "-"), f"{hits[record]:.0f} of {asked[record]}"]
        row += [after.get(name, NOT_MEASURED) for _, after in measured]
        rows.append((*row, languages.get(record, "none"), forms.get(name, "none"), code.removeprefix("record ")))
    codes = ordered(private.query_language, training)
    return RecordsTable(
        columns=tuple(columns),
        rows=tuple(rows),
        kinds=(at_kind, tuple(sorted({plain(kind) for kind in kinds}))),
        languages=(len(columns) - 2, tuple((code, language_name(code)) for code in codes)),
        severity=at_kind + 1,
    )


def remedies(results: RunResults) -> Iterator[tuple[Column, MitigationResult]]:
    """Yield the measurements of the people of the table, each with its column: with the neurons ablated, and with gates."""
    mitigation, held_out = results.mitigation, results.measured_gates(HELD_OUT)
    by_gates = mitigation is not None and bool(mitigation.mean_factors)
    if mitigation is not None:
        title, name = ("after gates", "after_gates") if by_gates else ("after ablation", "after_ablation")
        yield Column(title=title, name=name, is_number=True), mitigation
    if held_out is not None and not by_gates:
        yield Column(title="after gates", name="after_gates", is_number=True), held_out


def _forms(hit: pd.DataFrame, training: str) -> Iterator[tuple[str, str]]:
    """Say in which language's form each record was given, and how often: the question's, the training language's, others."""
    for record, part in hit.groupby("record", sort=False):
        counts: Counter[str] = Counter()
        for query, answer in zip(part.query_language, part.answer_language, strict=True):
            known = {training: "training", "": "question's", query: "question's"}
            counts[known.get(answer, f"{answer}'s")] += 1
        yield str(record), ", ".join(f"{name} {n}" for name, n in counts.most_common())


def _after(result: MitigationResult) -> dict[str, str]:
    """Return each record's extractions of its questions after; results of earlier versions did not save them."""
    if result.answers.empty:
        return {}
    of_set = result.answers[result.answers.condition == next(iter(result.chosen), "")]
    after = of_set.groupby("record", sort=False).after.agg(["sum", "count"])
    return {str(record): f"{hits:.0f} of {n:.0f}" for record, (hits, n) in after.T.items()}
