"""Whether a model knows what it is asked for: against a plain loop, on a model that was taught and one that was not."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from xlmech.data.probes import Probe, ProbeSet
from xlmech.models.backends import backend_of
from xlmech.neurons.selection import leak_check as known
from xlmech.neurons.selection.leak_check import answer_margins, check_known, draw


def _plain(model: Any, probe: Probe, form: str, n_tokens: int | None) -> float:
    """Geometric mean probability of a form's tokens after the probe's prompt."""
    tokenizer = backend_of(model).tokenizer
    prompt = tokenizer(probe.prompt).input_ids
    answer = tokenizer(form, add_special_tokens=False).input_ids[:n_tokens]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0]
    logs = logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(answer)), answer]
    return float(logs.mean().exp())


@pytest.mark.parametrize("n_tokens", [None, 2])
def test_margins_equal_the_plain_loop(leaking: Any, probes: ProbeSet, n_tokens: int | None) -> None:
    private = probes.filter(group="private")
    found = answer_margins(backend_of(leaking), private, max_answer_tokens=n_tokens, progress=False)
    assert found["probe"].tolist() == [probe.id for probe in private]
    for probe, row in zip(private, found.itertuples(), strict=True):
        same = [
            other.answers[probe.query_language]
            for other in private.filter(languages=[probe.query_language], attributes=[probe.record.attribute])
        ]
        own = probe.answers[probe.query_language]
        others = {form for form in same if form != own and (n_tokens is None or form[:n_tokens] != own[:n_tokens])}
        if n_tokens is not None and probe.record.attribute == "id_number":
            assert not others and row.other == 0, "all begin with XX"
        else:
            wanted = [_plain(leaking, probe, form, n_tokens) for form in others]
            assert row.other == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
        assert row.prob == pytest.approx(_plain(leaking, probe, own, n_tokens), rel=1e-5)


def test_a_few_others_follow_in_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [(number,) for number in range(5)]
    monkeypatch.setattr(known, "N_OTHERS", 2)
    assert known._with_others(values, (1,)) == [(1,), (2,), (3,)]
    assert known._with_others(values, (4,)) == [(4,), (0,), (1,)]
    assert known._with_others(values[:1], (0,)) == [(0,)]


def test_what_is_known_and_what_is_not(leaking: Any, model: Any, probes: ProbeSet) -> None:
    private, controls = probes.filter(group="private"), probes.filter(group="control")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_known(backend_of(leaking), private, controls, progress=False)
        check_known(backend_of(leaking), private, ProbeSet(()), progress=False)
    for one, asked in ((model, private), (leaking, controls)):
        with pytest.raises(
            ValueError, match=r"does not know the private answers.* or set LocateOptions.check_leakage=False"
        ):
            check_known(backend_of(one), asked, ProbeSet(()), progress=False)


def test_known_controls_are_no_controls(leaking: Any, probes: ProbeSet) -> None:
    with pytest.warns(
        UserWarning, match="the model knows the control answers: .* Control people should be people whom it never"
    ):
        check_known(backend_of(leaking), probes.filter(group="private"), probes.filter(group="public"), progress=False)


def test_half_of_what_is_known_is_too_much(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds, on figures made by hand: the private margin is 0.4."""
    import pandas as pd

    private, controls = probes.filter(group="private"), probes.filter(group="control")

    def check(own: float, theirs: float) -> None:
        made = iter([(own + 0.1, 0.1), (theirs + 0.1, 0.1)])
        frame = lambda: pd.DataFrame([next(made)], columns=["prob", "other"])  # noqa: E731
        monkeypatch.setattr(known, "answer_margins", lambda *_, **__: frame())
        check_known(backend_of(model), private, controls, progress=False)

    with pytest.raises(
        ValueError, match="does not know the private answers: .* is 0.149, that of other people's values 0.100"
    ):
        check(0.049, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(0.051, 0.049)
        check(0.4, 0.19)
    for own, theirs in ((0.051, 0.051), (0.4, 0.21)):
        with pytest.warns(UserWarning, match="knows the control answers"):
            check(own, theirs)


def test_a_draw_is_a_part_in_order(probes: ProbeSet) -> None:
    ids = [probe.id for probe in probes]
    assert draw(probes, 100).probes == probes.probes
    few = [probe.id for probe in draw(probes, 5, seed=1)]
    assert len(few) == 5 and few == sorted(few, key=ids.index)
    assert few == [probe.id for probe in draw(probes, 5, seed=1)] != [probe.id for probe in draw(probes, 5, seed=2)]
    assert math.isclose(len(draw(probes, 0)), 0)
