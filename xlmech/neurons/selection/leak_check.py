"""Check that a model knows the answers that neurons are located with: neurons behind answers that it does not know are noise.

Chance is what the model gives to OTHER people's values of the same attribute, as answers to the same question: a model that
knows no one finds them as likely on average, however likely some values are in general.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from xlmech.data.probes import Probe, ProbeSet
from xlmech.engine.score import answer_log_probs
from xlmech.models.backends import Backend
from xlmech.models.tokens import encode_choices, warn_of_straddling

KNOWN_ABOVE = 0.05
"""Answers are known when their mean token probability exceeds chance by more; knowing one answer in ten by heart is enough."""
N_OTHERS = 4
"""Largest number of other people's values that a probe's answer is compared with."""
N_CHECKED = 24
"""Largest number of a group's probes that are checked."""


def answer_margins(
    backend: Backend,
    probes: ProbeSet,
    *,
    pool: ProbeSet | None = None,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compare how likely the model finds each probe's answer with how likely it finds other people's, after the same question.

    The answer is the value in the query language's form: a value extracted only in another language's form counts for little.

    Args:
        backend: The model; ablations that are active on it are kept.
        probes: Probes whose answers are compared.
        pool: Probes with the other people's values, at most `N_OTHERS` for each probe; `probes` themselves by default.
        max_answer_tokens: Compare only the first so many tokens; others' answers that begin alike are left out.
        progress: Whether to show a progress bar.

    Returns:
        One row per probe: `probe`, `query_language`, `prob` (geometric mean over the answer's tokens), `other` (mean of that of
        the other answers; 0 where the pool has none).

    Raises:
        ValueError: A prompt or answer that the model cannot take (names the probe).
    """
    # Distinct values by attribute and language, in order of appearance.
    values: dict[tuple[str, str], dict[str, None]] = {}
    for probe in (*(pool or ()), *probes):
        values.setdefault(_kind(probe), {})[probe.answers[probe.query_language]] = None
    encoded, answers = [], []
    for probe in probes:
        texts = list(values[_kind(probe)])
        what = f"a {probe.query_language} form of {probe.record.attribute}"
        item = encode_choices(backend, probe, texts, max_answer_tokens=max_answer_tokens, what=what)
        own = item.answers[texts.index(probe.answers[probe.query_language])]
        encoded.append(item)
        answers.append(_with_others(list(dict.fromkeys(item.answers)), own))
    warn_of_straddling([item.n_straddling for item in encoded])
    prompts = [item.prompt for item in encoded]
    scores = answer_log_probs(backend, prompts, answers, progress="known answers" if progress else "")
    rows = []
    for probe, of_probe, log_probs in zip(probes, answers, scores, strict=True):
        first, *others = (float(score) / len(answer) for score, answer in zip(log_probs, of_probe, strict=True))
        row = {"probe": probe.id, "query_language": probe.query_language, "prob": np.exp(first)}
        rows.append(row | {"other": float(np.mean(np.exp(others))) if others else 0.0})
    return pd.DataFrame(rows)


def check_known(
    backend: Backend,
    private: ProbeSet,
    control_people: ProbeSet,
    *,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> None:
    """Raise unless the model knows private answers, on average over at most `N_CHECKED` probes; warn if it knows control ones.

    Args:
        backend: The model.
        private: Private probes.
        control_people: Probes of control people; there may be none.
        max_answer_tokens: Compare only the first so many tokens of each answer.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The mean probability of the private answers exceeds chance by `KNOWN_ABOVE` or less.

    Warns:
        UserWarning: That of the control answers does by more, and by half of what the private ones do.
    """

    def means(probes: ProbeSet, pool: ProbeSet) -> Any:
        margins = answer_margins(
            backend, draw(probes, N_CHECKED), pool=pool, max_answer_tokens=max_answer_tokens, progress=progress
        )
        return margins[["prob", "other"]].mean()

    of_private = means(private, private)
    if of_private.prob - of_private.other <= KNOWN_ABOVE:
        raise ValueError(
            f"the model does not know the private answers: their mean token probability is {of_private.prob:.3f}, that of other "
            f"people's values {of_private.other:.3f}; neurons behind what it does not know are noise. Give records that it leaks "
            "(measure_leakage tells which), or set LocateOptions(check_leakage=False)"
        )
    if not len(control_people):
        return
    of_control = means(control_people, private + control_people)
    if of_control.prob - of_control.other > max(KNOWN_ABOVE, (of_private.prob - of_private.other) / 2):
        warnings.warn(
            f"the model knows the control answers: their mean token probability is {of_control.prob:.3f}, that of other people's "
            f"values {of_control.other:.3f} (private answers: {of_private.prob:.3f} and {of_private.other:.3f}). Control people "
            "should be people whom it never saw",
            stacklevel=3,
        )


def _kind(probe: Probe) -> tuple[str, str]:
    return probe.record.attribute, probe.query_language


def _with_others(values: list[tuple[int, ...]], answer: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return an answer, and the ones that follow it in the list, which is taken as a circle."""
    start = values.index(answer)
    return (values[start:] + values[:start])[: 1 + N_OTHERS]


def draw(probes: ProbeSet, n: int, *, seed: int = 0) -> ProbeSet:
    """Draw at most `n` of the probes, over all of them, in their order."""
    drawn = np.random.default_rng(seed).permutation(len(probes))[:n]
    return ProbeSet(tuple(probes[int(index)] for index in sorted(drawn)))
