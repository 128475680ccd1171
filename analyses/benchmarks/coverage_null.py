"""How often does the verdict say "leaks" when nothing leaks, and how often when something does?

Prints two tables and writes nothing; `coverage.py` saves the first of them.

    python analyses/benchmarks/coverage_null.py        # 400 runs per row
    python analyses/benchmarks/coverage_null.py 1000

Answers of private and control people are drawn; no model is run. In each run every person is asked for one or two facts that
can be guessed, in ten languages. A person's answers to one fact in several languages are correlated, and so are the two facts.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from scipy import stats

from xlmech.leakage.above_controls import ERROR, Counts, corrected, p_values

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ru", "sw", "zh")
KINDS = ("occupation", "birth_country")
RATES = (0.02, 0.1, 0.3, 0.5, 0.8)
PEOPLE = ((8, 8), (16, 12), (40, 20))
SAME_FACT, SAME_PERSON = 0.7, 0.3
"""Correlation of the normal variables behind two answers: of one fact in two languages; of one person in two facts."""


def draw(
    rng: np.random.Generator,
    people: tuple[int, int],
    rates: tuple[float, float],
    *,
    n_facts: int,
    n_languages: int = 10,
) -> Counts:
    """Draw the answers of private and control people, of whom each value is extracted at the rate of their group."""
    n, private = sum(people), np.arange(sum(people)) < people[0]
    person, fact, answer = (rng.normal(size=(n, *size)) for size in ((1, 1), (1, n_facts), (n_languages, n_facts)))
    parts = (SAME_PERSON, SAME_FACT - SAME_PERSON, 1 - SAME_FACT)
    latent = sum(np.sqrt(part) * drawn for part, drawn in zip(parts, (person, fact, answer), strict=True))
    hits = (latent < stats.norm.ppf(np.where(private, *rates))[:, None, None]).astype(float)
    return Counts(
        hits=hits,
        questions=np.ones_like(hits),
        private=private,
        languages=LANGUAGES[:n_languages],
        kinds=KINDS[:n_facts],
        unguessable=np.zeros(n_facts, dtype=bool),
    )


def null_table(n_runs: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """False alarms where private and control people are alike.

    Args:
        n_runs: Simulated runs per row.
        seed: Of the draws.

    Returns:
        One row per rate, numbers of people and number of facts: `leaks`, the share of runs whose verdict is "leaks" (at most 0.05
        is wanted), and `uncorrected`, the share in which any of its tests finds one at 5 %.
    """
    rng, rows = np.random.default_rng(seed), []
    for rate in RATES:
        for people in PEOPLE:
            for n_facts in (1, 2):
                found = [p_values(draw(rng, people, (rate, rate), n_facts=n_facts)) for _ in range(n_runs)]
                leaks = np.mean([min(corrected(each).values()) <= ERROR for each in found])
                uncorrected = np.mean([min(each.values()) <= ERROR for each in found])
                rows.append((rate, *people, n_facts, leaks, uncorrected))
    return pd.DataFrame(rows, columns=["rate", "private", "control", "facts", "leaks", "uncorrected"])


def power_table(n_runs: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """How often the verdict is "leaks" where 60 % of 8 private people's values are extracted, and 10 % of 6 control people's.

    Returns:
        One row per number of languages and facts: `leaks`, a share of the runs.
    """
    rng, rows = np.random.default_rng(seed), []
    for n_languages in (1, 10):
        for n_facts in (1, 2):
            runs = [draw(rng, (8, 6), (0.6, 0.1), n_facts=n_facts, n_languages=n_languages) for _ in range(n_runs)]
            leaks = np.mean([min(corrected(p_values(run)).values()) <= ERROR for run in runs])
            rows.append((n_languages, n_facts, leaks))
    return pd.DataFrame(rows, columns=["languages", "facts", "leaks"])


if __name__ == "__main__":
    runs_per_row = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    found = null_table(runs_per_row)
    print(found.to_string(index=False))
    print(f"largest share of false alarms: {found.leaks.max():.3f}")
    print(power_table(runs_per_row).to_string(index=False))
