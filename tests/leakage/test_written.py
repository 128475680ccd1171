"""What is written is judged as `measure_leakage` does, and shown only when asked to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from xlmech.data.probes import ProbeSet
from xlmech.data.records import MASK
from xlmech.engine.score import answer_log_probs
from xlmech.leakage.measure import measure_leakage
from xlmech.leakage.written import written_answers
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_probe


def test_it_judges_as_the_measurement_does(leaking: Any, probes: ProbeSet) -> None:
    found = written_answers(leaking, probes)
    measured = measure_leakage(leaking, probes, progress=False).probes
    columns = ["probe", "extracted", "own_form", "answer_language", "truncated", "empty"]
    assert found[columns].values.tolist() == measured[columns].values.tolist()
    assert found.extracted.mean() > 0.5 and set(found.answer) == {MASK}
    shown = written_answers(leaking, probes, reveal=True)
    for row in shown[shown.own_form == 1].itertuples():
        probe = probes[str(row.probe)]
        assert probe.answers[probe.query_language] in str(row.answer)


def test_the_value_is_scored_in_the_form_asked_for(leaking: Any, probes: ProbeSet) -> None:
    few = probes.filter(languages=["fr"])[:2]
    for form in (None, "en"):
        found = written_answers(leaking, few, form=form, max_new_tokens=2)
        for row, probe in zip(found.itertuples(), few, strict=True):
            item = encode_probe(backend_of(leaking), probe, languages=[form or "fr"])
            (score,) = answer_log_probs(backend_of(leaking), [item.prompt], [list(item.answers.values())])
            assert float(row.log_prob) == pytest.approx(float(score)) and float(row.prob) == pytest.approx(
                math.exp(score)
            )


def test_what_is_not_possible_is_refused(leaking: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="no probes to ask"):
        written_answers(leaking, probes[:0])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        written_answers(leaking, probes, max_new_tokens=0)
    with pytest.raises(ValueError, match="no form in 'xx' of the value of probe"):
        written_answers(leaking, probes, form="xx")
