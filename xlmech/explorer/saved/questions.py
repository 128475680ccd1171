"""List the questions of a saved run and what came of each, from all results that say something of single questions."""

from __future__ import annotations

import pandas as pd

from xlmech.mitigation.evaluate import MitigationResult
from xlmech.report.records_table import remedies
from xlmech.report.run_results import GIVEN, WORDINGS, RunResults

_COLUMNS = [
    *("probe", "record", "attribute", "group", "query_language", "template"),
    *("extracted", "answer_language", "wording"),
]


def saved_questions(results: RunResults) -> pd.DataFrame:
    """List the questions of the leakage, and those of the lens that it does not have.

    Returns:
        One row per question: `probe`, `record`, `attribute`, `group` (`others` for those of the lens alone), `query_language`,
        `template`, `extracted` (0 to 1; NaN where it was not measured), `answer_language` (whose form was given), `wording`
        (whether it was asked for the comparison of wordings alone), and `after_ablation` and `after_gates` where they were
        measured: what is extracted then. With gates, others are the given people, from whom the gates were learned.
    """
    named, lens = results.results, results.lens
    leakage = [named[name].probes.assign(wording=name == WORDINGS) for name in ("leakage", WORDINGS) if name in named]  # type: ignore[attr-defined]
    asked = [_texts(frame) for frame in leakage]
    known = set().union(*(frame.probe for frame in asked))
    if lens is not None:
        others = lens.readings.drop_duplicates("probe").assign(group="others", wording=False)
        asked.append(_texts(others[~others.probe.isin(known)]))
    if not asked:
        return pd.DataFrame(columns=_COLUMNS)
    frame = pd.concat([one for one in asked if len(one)]).drop_duplicates("probe").reset_index(drop=True)
    for column, result in remedies(results):
        if len(result.answers):
            frame[column.name] = frame.probe.map(_by_probe(result, "after"))
    given = results.measured_gates(GIVEN)
    if given is not None and len(given.answers) and "after_gates" in frame:
        frame["after_gates"] = frame.after_gates.fillna(frame.probe.map(_by_probe(given, "after")))
        frame["extracted"] = frame.extracted.fillna(frame.probe.map(_by_probe(given, "before")))
    return frame


def _texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of questions; texts that were not saved are empty."""
    frame = frame.reindex(columns=_COLUMNS)
    for name in ("template", "answer_language"):
        texts = frame[name].astype(object)
        frame[name] = texts.where(texts.notna(), "")
    return frame.astype({"extracted": float, "wording": bool})


def _by_probe(result: MitigationResult, column: str) -> pd.Series:
    """Return a column of the answers with the first set, by probe."""
    own = result.answers[result.answers.condition == next(iter(result.chosen), "")]
    return own.drop_duplicates("probe").set_index("probe")[column]
