"""Compare two runs on the questions that both asked: what is worse, what is better, and which records. Runs no model.

    compare_runs("runs/may", "runs/june").worse

Questions are paired by record, language and template. What only one run asked is counted and named, and compared with nothing.
A mean hides that one person's value is newly extracted while another's is not, so every record that changed is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from xlmech.leakage.above_controls import ERROR
from xlmech.leakage.measure import LeakageResult
from xlmech.metrics.intervals import paired_difference_interval
from xlmech.percent import counted
from xlmech.report.run_results import RunResults, read_results

KEYS = ["record", "query_language", "template", "subject", "group", "attribute"]
"""Columns that tell a question: what differs in one of them is another question, or another person."""
WORSE, BETTER, UNCLEAR, TOO_FEW = "worse", "better", "unclear", "too few"
_BY = ("query_language", "attribute")
NEW, GONE = "newly extracted", "no longer extracted"


@dataclass(frozen=True, eq=False, kw_only=True)
class RunComparison:
    """Two runs, the old and the new one, on the questions that both asked.

    Attributes:
        old: Name of the old run.
        new: Name of the new run.
        differences: One row per group over all questions (`query_language` and `attribute` are ""), and for private people one
            per query language and one per kind of data: `old` and `new` (share of questions that give the value; of public
            facts in the language of the question), `difference` (new - old) with its 95 % interval over people in `low` and
            `high`, `change` (for private people `worse`, `better`, `unclear`, or `too few` where there are so few people that no
            answers could be called worse), `confidence` (at which the interval must exclude 0 to be called so), `gained` and
            `lost` (questions), `n_subjects`, `n_probes`.
        records: One row per record with an answer that changed: `record`, `subject`, `group`, `attribute`, `change` (`newly
            extracted`, `no longer extracted`, or by `more`, `fewer` or `other` questions), `newly` and `no_longer` (query
            languages; with a wording's number where there are several).
        not_compared: One row per question that only one run has: `run` (`old` or `new`) and what tells the question.
        notes: What differs between the runs besides the answers, a sentence each.
    """

    old: str
    new: str
    differences: pd.DataFrame
    records: pd.DataFrame
    not_compared: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def worse(self) -> pd.DataFrame:
        """Rows of `differences` where more is extracted."""
        return self.differences[self.differences.change == WORSE]

    @property
    def better(self) -> pd.DataFrame:
        """Rows of `differences` where less is extracted."""
        return self.differences[self.differences.change == BETTER]

    @property
    def newly_extracted(self) -> pd.DataFrame:
        """Private records of which no question gave the value in the old run, and one does in the new."""
        return self._private(NEW)

    @property
    def no_longer_extracted(self) -> pd.DataFrame:
        """Private records of which a question gave the value in the old run, and none does in the new."""
        return self._private(GONE)

    def is_worse(self, *, any_record: bool = False) -> bool:
        """Tell whether something is worse: an interval above 0, or with `any_record` also a single record newly extracted."""
        return bool(len(self.worse)) or (any_record and bool(len(self.newly_extracted)))

    def _private(self, change: str) -> pd.DataFrame:
        return self.records[(self.records.group == "private") & (self.records.change == change)]


def compare_runs(old: Any, new: Any) -> RunComparison:
    """Compare a new run with an old one, by the extraction of each question that both asked.

    A difference counts as worse or better if its interval excludes 0 after a correction for the number of languages and kinds of
    data, so that the chance of any wrong word is at most 5 %. Half of the permitted error is that of all questions together. A
    record that is newly extracted is a leak all the same, however few people there are, and is listed.

    Not compared are what ablation or gates do, and exposure.

    Args:
        old: A run folder, an audit, a leakage result, or results by name, as of `read_results`.
        new: The same of the new run.

    Raises:
        FileNotFoundError: No such run folder.
        ValueError: A run without leakage or extraction, a question that is twice in one run, or no question in both.
    """
    first, second = read_results(old), read_results(new)
    names = first.origin or "old", second.origin or "new"
    paired, alone = _pair(_questions(first, names[0]), _questions(second, names[1]))
    if not len(paired):
        raise ValueError(
            f"{names[0]} and {names[1]} have no question in common (record, person, kind of data, language and template must "
            "be the same); run both on the same file of records"
        )
    return RunComparison(
        old=names[0],
        new=names[1],
        differences=_differences(paired),
        records=_records(paired),
        not_compared=alone,
        notes=tuple(_notes(first.leakage, second.leakage, alone)),
    )


@cache
def n_people_to_tell(confidence: float) -> int:
    """Return the fewest people with whom a rise can be told at all: that in which every question is newly answered."""
    n = 1
    while paired_difference_interval(np.ones(n), np.zeros(n), np.ones(n), confidence=confidence).low <= 0:
        n += 1
    return n


def _questions(results: RunResults, name: str) -> pd.DataFrame:
    """Return each question of a run with `hit`, from 0 to 1; a question that failed is left out."""
    probes = results.leakage.probes
    if "extracted" not in probes:
        raise ValueError(
            f"{name}: the leakage result has no extraction; measure it with measures=('extraction',) in both runs"
        )
    found = probes[KEYS].assign(hit=probes.extracted.where(probes.group != "public", probes.own_form).astype(float))
    found = found[found.hit.notna()]
    if found.duplicated(KEYS).any():
        raise ValueError(f"{name}: a question stands twice in the leakage result, so it cannot be paired; run it again")
    return found


def _pair(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the questions of both runs, and return those of one alone as a second frame."""
    joined = old.merge(new, on=KEYS, how="outer", suffixes=("_old", "_new"), sort=False, indicator=True)
    both = joined._merge == "both"
    runs = joined._merge[~both].astype(str).map({"left_only": "old", "right_only": "new"})
    alone = joined.loc[~both, KEYS].assign(run=runs)[["run", *KEYS]].reset_index(drop=True)
    paired = joined.loc[both].drop(columns="_merge").reset_index(drop=True)
    change = paired.hit_new - paired.hit_old
    return paired.assign(gained=change.clip(lower=0), lost=(-change).clip(lower=0)), alone


def _differences(paired: pd.DataFrame) -> pd.DataFrame:
    private = paired[paired.group == "private"]
    parts = {(column, name): part for column in _BY for name, part in private.groupby(column, sort=False)}
    several = [key for key in parts if private[key[0]].nunique() > 1]
    # What too few people tell nothing about is not tested, so that it takes no share of the permitted error.
    tested = [key for key in several if parts[key].subject.nunique() >= n_people_to_tell(1 - ERROR)]
    overall = 1 - (ERROR / 2 if tested else ERROR)
    one_of_several = 1 - ERROR / 2 / max(1, len(tested))
    rows = [_difference(private, "private", overall)] if len(private) else []
    for (column, name), part in parts.items():
        confidence = one_of_several if (column, name) in several else overall
        rows.append(_difference(part, "private", confidence) | {column: name})
    rows += [_difference(part, str(group)) for group, part in paired.groupby("group", sort=False) if group != "private"]
    return pd.DataFrame(rows)


def _difference(part: pd.DataFrame, group: str, confidence: float | None = None) -> dict[str, Any]:
    """Compare some questions of one group; without a confidence the difference is not judged."""
    people = part.groupby("subject")[["gained", "lost"]].sum()
    questions = part.groupby("subject").size()
    value, low, high = paired_difference_interval(people.gained, people.lost, questions)
    change = ""
    if confidence is not None:
        decisive = paired_difference_interval(people.gained, people.lost, questions, confidence=confidence)
        change = WORSE if decisive.low > 0 else BETTER if decisive.high < 0 else UNCLEAR
        change = TOO_FEW if len(people) < n_people_to_tell(confidence) else change
    return {
        "group": group,
        "query_language": "",
        "attribute": "",
        "old": float(part.hit_old.mean()),
        "new": float(part.hit_new.mean()),
        "difference": value,
        "low": low,
        "high": high,
        "change": change,
        "confidence": confidence if confidence is not None else float("nan"),
        "gained": int((part.gained > 0).sum()),
        "lost": int((part.lost > 0).sum()),
        "n_subjects": len(people),
        "n_probes": len(part),
    }


def _records(paired: pd.DataFrame) -> pd.DataFrame:
    """List the records of which a question gives the value in one run alone."""
    was, now = paired.hit_old > 0, paired.hit_new > 0
    several = paired.template.nunique() > 1
    said = paired.query_language.astype(str)
    said = said + " (wording " + paired.template.astype(str) + ")" if several else said
    table = paired.assign(was=was, now=now, newly=said.where(now & ~was), no_longer=said.where(was & ~now))
    rows = []
    for key, part in table.groupby(["record", "subject", "group", "attribute"], sort=False):
        newly, gone = part.newly.dropna().tolist(), part.no_longer.dropna().tolist()
        if not newly and not gone:
            continue
        change = "other questions" if newly and gone else "more questions" if newly else "fewer questions"
        if not part.was.any() or not part.now.any():
            change = NEW if part.now.any() else GONE
        rows.append((*key, change, ", ".join(newly), ", ".join(gone)))
    columns = ["record", "subject", "group", "attribute", "change", "newly", "no_longer"]
    return pd.DataFrame(rows, columns=columns)


def _notes(old: LeakageResult, new: LeakageResult, alone: pd.DataFrame) -> Iterator[str]:
    """Say what differs between the runs besides their answers."""
    for what, first, second in _settings(old, new):
        if first != second:
            yield f"{what}: {first or 'not known'} in the old run, {second or 'not known'} in the new one"
    for run in ("old", "new"):
        part = alone[alone.run == run]
        if not len(part):
            continue
        codes = ", ".join(sorted(set(part.query_language.astype(str))))
        yield (
            f"not compared, as only the {run} run has them: {len(part):,} question{'s' * (len(part) != 1)} about "
            f"{counted(part.subject.nunique(), 'person', 'people')}, asked in {codes}"
        )


def _settings(old: LeakageResult, new: LeakageResult) -> Iterator[tuple[str, str, str]]:
    """Yield what may differ, in words: name, old and new."""
    for what, value in (
        ("model", _model),
        ("prompt format", _prompt),
        ("training language", lambda of: of.plant_language),
        ("new tokens per answer", lambda of: str(of.max_new_tokens or "")),
        ("answers per question", lambda of: f"{of.n_samples} at temperature {of.temperature:g}"),
        ("version of xlmech", lambda of: of.provenance.versions.get("xlmech", "")),
    ):
        yield what, value(old), value(new)


def _model(result: LeakageResult) -> str:
    source = result.provenance
    parts = [source.model, source.adapter and f"adapter {source.adapter}", source.revision[:12]]
    return ", ".join(part for part in parts if part)


def _prompt(result: LeakageResult) -> str:
    name, template = (str(result.prompt.get(key, "")) for key in ("name", "template"))
    return f"{name} ({template})".replace("\n", "\\n") if template else name
