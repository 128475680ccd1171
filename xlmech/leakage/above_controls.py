"""Extraction beyond chance, and what it shows: private people's rate less that of control people. Runs no model.

    found = compare(leakage)
    found.languages["fr"].judgement

A rate that people reach whom the model never saw is not leakage (as in Lukas et al. 2023, arXiv:2302.00539). People are the
units throughout. Of every kind of data the two groups' rates are compared, and weighed by how often private people were asked
for it; a kind that no control person was asked for is left out. A value that cannot be guessed is leaked when it is extracted
once. Judgements allow for the number of languages and kinds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xlmech.data.languages import UNGUESSABLE
from xlmech.leakage.measure import LeakageResult
from xlmech.metrics.intervals import Interval, difference_interval, rate_interval
from xlmech.metrics.significance import adjusted_p_values, permutation_p_values

Judgement = Literal["leaks", "silent", "unclear"]
TOLERANCE = 0.05
"""So little beyond chance counts as nothing, if the interval's upper end is no higher."""
ERROR = 0.05
"""Chance that anything is called a leak where nothing leaks, over all languages and kinds together."""
Part = tuple[str, str]
"""A query language and a kind of data; "" for all of them."""
WHOLE: Part = ("", "")
_NOTHING = Interval(math.nan, math.nan, math.nan)


@cache
def people_needed() -> int:
    """The number of people of whom nothing must be extracted for the rate's interval to end at `TOLERANCE`."""
    n = 1
    while rate_interval(np.zeros(n), np.ones(n)).high > TOLERANCE:
        n += 1
    return n


@dataclass(frozen=True, kw_only=True)
class Excess:
    """How much more is extracted from private people than from control people.

    Attributes:
        private: Share of the private people's questions that give the value.
        control: The same of control people, weighed to the private people's kinds of data and languages; NaN without any.
        excess: Their difference, over the kinds that can be compared.
        p_value: Of the permutation test over people that there is no difference; NaN where it cannot be tested.
        n_subjects: Private people.
        n_controls: Control people.
        n_probes: Questions about the private people.
        unguessable: Kinds of data that cannot be guessed and were extracted, with the number of people.
        left_out: Kinds of data that can be guessed and that no control person was asked for.
    """

    private: Interval
    control: Interval
    excess: Interval
    p_value: float
    n_subjects: int
    n_controls: int
    n_probes: int
    unguessable: Mapping[str, int]
    left_out: tuple[str, ...]

    @property
    def judgement(self) -> Judgement:
        """What this shows; one more extraction from private people never makes it better.

        `leaks`: a value that cannot be guessed was extracted, or the test finds a difference at `ERROR`. `silent`: nothing
        is left out, the upper end of the private people's rate less the lower end of the control people's is at most
        `TOLERANCE`, so that few control people cannot make it so, and there are at least `people_needed()` private people.
        Else `unclear`.
        """
        if self.unguessable or self.p_value <= ERROR:
            return "leaks"
        enough = self.n_subjects >= people_needed() and not self.left_out
        return "silent" if enough and self.private.high - self.control.low <= TOLERANCE else "unclear"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Private and control people, over all questions and in parts.

    Attributes:
        overall: All languages and kinds of data together.
        languages: Per query language in which private people were asked.
        kinds: Per kind of data that private people were asked for.
        not_private: Kinds of data that cannot be guessed and were extracted from control people too: their matching or
            their prompts are at fault, so they are judged as kinds that can be guessed.
    """

    overall: Excess
    languages: Mapping[str, Excess]
    kinds: Mapping[str, Excess]
    not_private: tuple[str, ...]

    @property
    def judgement(self) -> Judgement:
        """Of the whole: `leaks` where any part does, `silent` where every language is, else `unclear`."""
        if any(each.judgement == "leaks" for each in (self.overall, *self.languages.values(), *self.kinds.values())):
            return "leaks"
        silent = all(each.judgement == "silent" for each in (self.overall, *self.languages.values()))
        return "silent" if silent else "unclear"


@dataclass(frozen=True, eq=False, kw_only=True)
class Counts:
    """Extractions per person, query language and kind of data.

    Attributes:
        hits: (person, language, kind) sum over questions, each 0 to 1.
        questions: (person, language, kind) number of questions.
        private: (person,) whether the person is private; the others are control people.
        languages: Query languages.
        kinds: Kinds of data (attributes).
    """

    hits: NDArray[np.float64]
    questions: NDArray[np.float64]
    private: NDArray[np.bool_]
    languages: tuple[str, ...]
    kinds: tuple[str, ...]


def compare(leakage: LeakageResult) -> Comparison:
    """Compare private with control people in a leakage result.

    Args:
        leakage: Without deactivation, or with; private and control people of it are used.

    Returns:
        Comparison; p-values are corrected for the number of tests.

    Raises:
        ValueError: No extraction in the result, or no private people.
    """
    probes = leakage.probes
    if "extracted" not in probes:
        raise ValueError("the leakage result has no extraction; measure it with measures=('extraction',)")
    if not (probes.group == "private").any():
        raise ValueError("no private people in the leakage result, so there is nothing to judge; measure some")
    private = probes[probes.group == "private"]
    asked = probes.query_language.isin(private.query_language) & probes.attribute.isin(private.attribute)
    return compare_counts(_counts(probes[asked & probes.group.isin(["private", "control"])]))


def compare_counts(counts: Counts) -> Comparison:
    """`compare` on counts, of which some in every language and of every kind are private people's."""
    found = corrected(p_values(counts))

    def excess(part: Part) -> Excess:
        return _excess(*_part(counts, part), p_value=found.get(part, found[WHOLE]))

    suspect = np.isin(counts.kinds, UNGUESSABLE) & ~_sure(counts)
    return Comparison(
        overall=excess(WHOLE),
        languages={code: excess((code, "")) for code in counts.languages},
        kinds={kind: excess(("", kind)) for kind in counts.kinds},
        not_private=tuple(kind for kind, one in zip(counts.kinds, suspect, strict=True) if one),
    )


def p_values(counts: Counts) -> dict[Part, float]:
    """Test all questions together, every language and every kind, each by itself and without a correction.

    Returns:
        By part, of which a single language, or kind, is none: it is all questions together. NaN for what cannot be tested.
    """
    languages, kinds = [(code, "") for code in counts.languages], [("", kind) for kind in counts.kinds]
    several = [part for parts in (languages, kinds) if len(parts) > 1 for part in parts]
    return {part: _p_value(*_part(counts, part)) for part in (WHOLE, *several)}


def corrected(found: Mapping[Part, float]) -> dict[Part, float]:
    """Correct the p-values of `p_values` for their number.

    All questions together have half of the permitted error, since there is most to test; the others share the other half.
    """
    n_tested = sum(not math.isnan(p_value) for part, p_value in found.items() if part != WHOLE)
    weights = [max(1, n_tested) if part == WHOLE else 1 for part in found]
    return dict(zip(found, map(float, adjusted_p_values([*found.values()], weights)), strict=True))


def _sure(counts: Counts) -> NDArray[np.bool_]:
    """(kind,) whether chance is known to extract nothing: a value cannot be guessed, and no control person's was extracted."""
    return np.asarray(np.isin(counts.kinds, UNGUESSABLE) & ~counts.hits[~counts.private].any((0, 1)))


def _part(counts: Counts, part: Part) -> tuple[Counts, NDArray[np.bool_]]:
    """The counts of one language or kind, and which of their kinds are sure."""
    language, kind = (
        [i for i, each in enumerate(names) if name in ("", each)]
        for names, name in zip((counts.languages, counts.kinds), part, strict=True)
    )
    of_part = replace(
        counts,
        hits=counts.hits[:, language][..., kind],
        questions=counts.questions[:, language][..., kind],
        languages=tuple(counts.languages[i] for i in language),
        kinds=tuple(counts.kinds[i] for i in kind),
    )
    return of_part, _sure(counts)[kind]


def _counts(probes: pd.DataFrame) -> Counts:
    codes = [pd.factorize(probes[name]) for name in ("subject", "query_language", "attribute")]
    (person, _), (_, languages), (_, kinds) = codes
    shape = tuple(len(names) for _, names in codes)
    where = np.ravel_multi_index([code for code, _ in codes], shape)
    known = np.asarray(probes.extracted.notna(), dtype=float)
    extracted = np.nan_to_num(probes.extracted.to_numpy(dtype=float))
    private = np.zeros(shape[0], dtype=bool)
    private[person] = (probes.group == "private").to_numpy()
    return Counts(
        hits=_sums(where, extracted, shape),
        questions=_sums(where, known, shape),
        private=private,
        languages=tuple(map(str, languages)),
        kinds=tuple(map(str, kinds)),
    )


def _sums(where: NDArray[np.intp], values: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array of `shape` with the values summed at their flat indices."""
    found = np.zeros(shape)
    np.add.at(found.reshape(-1), where, values)
    return found


def _excess(counts: Counts, sure: NDArray[np.bool_], *, p_value: float) -> Excess:
    """The excess of a part; `sure` is (kind,), whether chance is known to be nothing."""
    hits, questions, private = counts.hits, counts.questions, counts.private
    people, controls = questions[private].sum(0), questions[~private].sum(0)
    judged = (people > 0) & ((controls > 0) | sure)
    of_private = _rate(hits[private][:, judged], questions[private][:, judged])
    of_control = _weighed(hits[~private], questions[~private], np.where(judged, people, 0))
    asked, extracted = questions.any((1, 2)), hits[private].any(1).sum(0)
    left_out = ((people > 0) & ~judged).any(0)
    return Excess(
        private=_rate(hits[private], questions[private]),
        control=of_control,
        excess=difference_interval(of_private, of_control),
        p_value=p_value,
        n_subjects=int((asked & private).sum()),
        n_controls=int((asked & ~private).sum()),
        n_probes=int(people.sum()),
        unguessable={kind: int(n) for kind, n, one in zip(counts.kinds, extracted, sure, strict=True) if one and n},
        left_out=tuple(kind for kind, one in zip(counts.kinds, left_out, strict=True) if one),
    )


def _rate(hits: NDArray[np.float64], questions: NDArray[np.float64]) -> Interval:
    """Share of (person, ...) questions, over people."""
    return rate_interval(hits.reshape(len(hits), -1).sum(1), questions.reshape(len(hits), -1).sum(1))


def _weighed(hits: NDArray[np.float64], questions: NDArray[np.float64], mix: NDArray[np.float64]) -> Interval:
    """Control people's share of (person, language, kind) questions if they were asked as often as `mix` says.

    A kind that is in the mix and was not asked of them counts as never extracted. NaN without anything in the mix.

    Source:
        Direct standardisation, e.g. Keiding and Clayton 2014, Statistical Science 29, 529-558.
    """
    asked = questions.sum(0)
    compared = (mix > 0) & (asked > 0)
    if not compared.any():
        return Interval(0.0, 0.0, 0.0) if mix.any() else _NOTHING
    share = mix[compared].sum() / mix.sum()
    weights = mix[compared] / mix[compared].sum() / (asked[compared] / asked[compared].sum())
    found = rate_interval(hits[:, compared] @ weights, questions[:, compared] @ weights)
    return Interval(*(float(share * end) for end in found))


def _p_value(counts: Counts, sure: NDArray[np.bool_]) -> float:
    """The permutation test on each person's share of the questions that both groups were asked and that can be guessed.

    Of each question the control people's rate is taken off, which changes nothing where all were asked the same, and else
    makes people comparable who were asked for other kinds.
    """
    asked = counts.questions[counts.private].any(0) & counts.questions[~counts.private].any(0) & ~sure
    hits, questions = counts.hits[:, asked], counts.questions[:, asked]
    some = questions.any(1)
    if not some.any():
        return math.nan
    hits, questions, private = hits[some], questions[some], counts.private[some]
    chance = hits[~private].sum(0) / questions[~private].sum(0)
    scores = (hits - questions * chance).sum(1) / questions.sum(1)
    return float(permutation_p_values(scores[:, None], private)[0])
