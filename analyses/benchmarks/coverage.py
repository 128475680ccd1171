"""How often does each interval of `xlmech.metrics.intervals` hold the truth, for simulated people?

Writes `figures/benchmarks/coverage.json`, all cells of the tables that were asked for, and prints the tables.

    python analyses/benchmarks/coverage.py                   # all tables: under 3 minutes on one core
    python analyses/benchmarks/coverage.py rate mean         # these tables only
    python analyses/benchmarks/coverage.py --samples 4000    # simulations per cell (1000 by default)

Tables: `rate`, `difference`, `reduction`, `specificity`, `mean`, `mean_reduction`, and `null` (how often a verdict is wrong when
nothing leaks; see `coverage_null.py`). Each table also has the coverage of the percentile bootstrap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from coverage_null import null_table
from measuring import FIGURES, parser_of

from xlmech.metrics.intervals import (
    Interval,
    difference_interval,
    mean_intervals,
    mean_reduction_interval,
    rate_interval,
    reduction_interval,
)
from xlmech.mitigation.reduction import reduction_beyond

RESULT = FIGURES / "coverage.json"
PEOPLE = (4, 8, 16, 40)
RATES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""The intervals of 0.8, 0.95 and 0.98 are mirror images of those of 0.2, 0.05 and 0.02 (a unit test holds them to it)."""
QUESTIONS = {"1": (1,), "2": (2,), "8": (8,), "1 to 8": (1, 2, 4, 8), "8, 1, 1, 1": (8, 1, 1, 1)}
CORRELATIONS = (0.0, 0.3, 0.7, 1.0)
RESAMPLES = 400
Cells = Iterator[dict[str, Any]]


def people_of(
    rng: np.random.Generator, samples: int, questions: np.ndarray, rate: float, correlation: float
) -> np.ndarray:
    """(sample, person) hits of beta-binomial people: each has an own rate, and the correlation sets how far rates differ."""
    shape = samples, len(questions)
    if correlation == 0:
        own = np.full(shape, rate)
    elif correlation == 1:
        own = (rng.random(shape) < rate).astype(float)
    else:
        own = rng.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), shape)
    return rng.binomial(questions, own).astype(float)


@lru_cache(maxsize=200_000)
def _rate(people: tuple[tuple[float, float], ...]) -> Interval:
    return rate_interval(*np.array(people).T)


def rate_of(hits: np.ndarray, questions: np.ndarray) -> Interval:
    """`rate_interval`, computed once for each set of people, whatever their order."""
    return _rate(tuple(sorted(zip(hits.tolist(), questions.tolist(), strict=True))))


def percentiles(rng: np.random.Generator, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """(2, sample) bounds of the percentile bootstrap for the ratio of sums of (sample, person) numbers."""
    n = top.shape[1]
    drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).T
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (top @ drawn) / (bottom @ drawn)
    return np.nanpercentile(np.where(np.isfinite(ratios), ratios, np.nan), [2.5, 97.5], axis=1)


def held(ends: np.ndarray, truth: float) -> float:
    """Share of the (2, sample) intervals that hold the truth."""
    return float(((ends[0] <= truth + 1e-9) & (truth - 1e-9 <= ends[1])).mean())


def rate_table(samples: int, rng: np.random.Generator) -> Cells:
    for n, (name, per_person), rate, correlation in product(PEOPLE, QUESTIONS.items(), RATES, CORRELATIONS):
        if name == "1" and correlation:
            continue  # one question has no correlation
        questions = np.resize(per_person, n)
        hits = people_of(rng, samples, questions, rate, correlation)
        ends = np.array([rate_of(row, questions)[1:] for row in hits]).T
        old = percentiles(rng, hits, np.broadcast_to(questions, hits.shape).astype(float))
        yield {
            "people": n, "questions": name, "rate": rate, "correlation": correlation, "coverage": held(ends, rate),
            "width": float((ends[1] - ends[0]).mean()), "bootstrap": held(old, rate),
            "bootstrap_width": float((old[1] - old[0]).mean()), "zero_width": float((old[1] == old[0]).mean()),
        }  # fmt: skip


def difference_table(samples: int, rng: np.random.Generator) -> Cells:
    pairs = ((0.05, 0.05), (0.1, 0.1), (0.5, 0.5), (0.3, 0.1), (0.5, 0.1), (0.9, 0.1), (0.5, 0.02))
    for (n, m), (one, other), correlation in product(
        ((4, 4), (8, 8), (16, 8), (16, 16), (40, 8), (40, 40)), pairs, (0.0, 0.5)
    ):
        questions = np.full(n, 2), np.full(m, 2)
        hits = [
            people_of(rng, samples, of, rate, correlation) for of, rate in zip(questions, (one, other), strict=True)
        ]
        found = [
            difference_interval(rate_of(a, questions[0]), rate_of(b, questions[1])) for a, b in zip(*hits, strict=True)
        ]
        ends = np.array(found).T[1:]
        old = [percentiles(rng, of, np.full(of.shape, 2.0)) for of in hits]
        value = [of.sum(1) / of.shape[1] / 2 for of in hits]
        joined = np.array(
            [
                difference_interval((value[0][i], *old[0][:, i]), (value[1][i], *old[1][:, i]))[1:]
                for i in range(samples)
            ]
        ).T
        yield {
            "people": f"{n} and {m}", "one": one, "other": other, "correlation": correlation,
            "coverage": held(ends, one - other), "width": float((ends[1] - ends[0]).mean()),
            "bootstrap": held(joined, one - other),
        }  # fmt: skip


def before_and_after(
    rng: np.random.Generator, samples: int, n: int, questions: int, rate: float, reduction: float, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """(sample, person) hits before and after; hits stay by `question` or by `person`, or are drawn `anew` for the same people."""
    shape = samples, n, questions
    own = np.ones(shape[:2]) if rate == 1 else rng.beta(rate / 0.3 - rate, (1 - rate) / 0.3 - (1 - rate), shape[:2])
    before = rng.random(shape) < own[..., None]
    kept = rng.random((samples, n, 1) if how == "person" else shape) >= reduction
    after = rng.random(shape) < own[..., None] * (1 - reduction) if how == "anew" else before & kept
    return before.sum(2).astype(float), after.sum(2).astype(float)


def reduction_table(samples: int, rng: np.random.Generator) -> Cells:
    cells = product(PEOPLE, (1, 4), (0.1, 0.3, 0.6, 1.0), (0.0, 0.3, 0.7, 1.0), ("question", "person", "anew"))
    for n, questions, rate, reduction, how in cells:
        if how == "person" and questions == 1:
            continue
        before, after = before_and_after(rng, max(50, samples // 2), n, questions, rate, reduction, how)
        there = before.sum(1) > 0
        before, after = before[there], after[there]
        asked = np.full(n, questions)
        found = [reduction_interval(*pair, asked) for pair in zip(before, after, strict=True)]
        ends = np.array([each[1:3] for each in found]).T
        known = ~np.isnan(ends[0])
        old = 1 - percentiles(rng, after, before)[::-1]
        yield {
            "people": n, "questions": questions, "before": rate, "reduction": reduction, "kept by": how,
            "coverage": held(ends[:, known], reduction) if known.sum() >= 100 else float("nan"),
            "held_or_none": held(np.where(known, ends, [[-np.inf], [np.inf]]), reduction),
            "not_known": float((~known).mean()), "width": float(np.nanmean(ends[1] - ends[0])) if known.any() else float("nan"),
            "lowest": float(np.nanmin(ends[0])) if known.any() else float("nan"), "bootstrap": held(old, reduction),
            "bootstrap_lowest": float(old[0].min()),
        }  # fmt: skip


def specificity_table(samples: int, rng: np.random.Generator) -> Cells:
    """One language's reduction less the largest of two others', of the same people."""
    for n, others in product((8, 16, 40), ((0.0, 0.0), (0.3, 0.3), (0.5, 0.1))):
        own, count = 0.7, max(50, samples // 4)
        columns = [before_and_after(rng, count, n, 2, 0.8, of, "question") for of in (own, *others)]
        before, after = (np.stack([column[when] for column in columns], axis=2) for when in (0, 1))
        asked = np.full((n, 3), 2.0)
        ends = np.array([reduction_beyond(*pair, asked)[1:3] for pair in zip(before, after, strict=True)]).T
        known = ~np.isnan(ends[0])
        yield {
            "people": n, "own": own, "others": str(others), "coverage": held(ends[:, known], own - max(others)),
            "not_known": float((~known).mean()), "width": float(np.nanmean(ends[1] - ends[0])),
        }  # fmt: skip


SHAPES: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float, tuple[float, float]]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0, (-np.inf, np.inf)),
    "even, 0 to 1": (lambda rng, shape: rng.random(shape), 0.5, (0, 1)),
    "probabilities near 0 and 1, mean 0.5": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5, (0, 1)),
    "probabilities near 0 and 1, mean 0.2": (lambda rng, shape: rng.beta(0.2, 0.8, shape), 0.2, (0, 1)),
    "probabilities, most near 0, mean 0.05": (lambda rng, shape: rng.beta(0.05, 0.95, shape), 0.05, (0, 1)),
    "bits, exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0, (0, np.inf)),
    "log-normal": (lambda rng, shape: rng.lognormal(size=shape), float(np.exp(0.5)), (-np.inf, np.inf)),
}
"""What people's values are drawn from, its mean, and its bounds."""


def mean_table(samples: int, rng: np.random.Generator) -> Cells:
    for (name, (draw, truth, bounds)), n in product(SHAPES.items(), PEOPLE):
        values = draw(rng, (5 * samples, n))
        found = mean_intervals(values.T, np.ones((n, 5 * samples)), bounds=bounds)
        old = percentiles(rng, values, np.ones_like(values))
        yield {
            "people": n, "shape": name, "coverage": held(np.stack(found[1:]), truth),
            "width": float(np.median(found.high - found.low)), "bootstrap": held(old, truth),
            "bootstrap_width": float(np.median(old[1] - old[0])),
        }  # fmt: skip


def mean_reduction_table(samples: int, rng: np.random.Generator) -> Cells:
    for n, reduction, spread in product(PEOPLE, (0.0, 0.5), (0.5, 1.0)):
        before = rng.gamma(1 / spread**2, spread**2, (samples, n))
        after = before * rng.gamma(4, (1 - reduction) / 4, (samples, n))
        found = [mean_reduction_interval(*pair) for pair in zip(before, after, strict=True)]
        ends = np.array([each[1:3] for each in found]).T
        known = ~np.isnan(ends[0])
        old = 1 - percentiles(rng, after, before)[::-1]
        yield {
            "people": n, "reduction": reduction, "spread": spread, "coverage": held(ends[:, known], reduction),
            "not_known": float((~known).mean()), "width": float(np.nanmedian(ends[1] - ends[0])),
            "bootstrap": held(old, reduction),
        }  # fmt: skip


TABLES: dict[str, tuple[Callable[[int, np.random.Generator], Cells], list[str]]] = {
    "rate": (rate_table, ["people", "questions"]),
    "difference": (difference_table, ["people"]),
    "reduction": (reduction_table, ["people", "before"]),
    "specificity": (specificity_table, ["people"]),
    "mean": (mean_table, ["shape", "people"]),
    "mean_reduction": (mean_reduction_table, ["people"]),
}
"""Each table's cells, and by what its summary groups them."""


def summary(cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Coverage over a group's cells, and the mean of what else there is, in percent; the lowest and the highest of several."""
    rows = []
    for key, part in cells.groupby(by, sort=False):
        row = dict(zip(by, key, strict=True))
        for name in ("coverage", "bootstrap"):
            of = 100 * part.get(name, pd.Series(np.nan, part.index))
            several = {f"{name}: lowest": of.min(), "mean": of.mean(), "highest": of.max()}
            row |= {f"{name}: {at}" if ":" not in at else at: value for at, value in several.items()}
        rows.append(
            row | {name: 100 * part[name].mean() for name in ("width", "zero_width", "not_known") if name in part}
        )
    frame = pd.DataFrame(rows)
    single = len(cells) == len(frame)
    dropped = [name for name in frame if single and (": lowest" in name or ": highest" in name or name == "width")]
    names = {"zero_width": "bootstrap: without width", "not_known": "no interval"}
    return frame.drop(columns=dropped).dropna(axis=1, how="all").rename(columns=names)


def markdown(frame: pd.DataFrame) -> str:
    """A table for a page of the documentation; numbers but counts to one decimal."""

    def text(value: Any) -> str:
        return (
            ""
            if value != value
            else f"{value:.1f}"
            if isinstance(value, float) and value % 1 or value == 100
            else f"{value}"
        )

    lines = [
        [*frame.columns],
        ["---"] * len(frame.columns),
        *([text(value) for value in row] for row in frame.to_numpy(object)),
    ]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join([*TABLES, 'null'])}; all by default")
    parser.add_argument(
        "--samples", type=int, default=1000, help="simulations per cell of the rates (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wanted = arguments.tables or [*TABLES, "null"]
    if unknown := set(wanted) - {*TABLES, "null"}:
        parser.error(f"unknown table {', '.join(sorted(unknown))}; use {', '.join([*TABLES, 'null'])}")
    saved = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in wanted:
        start = time.perf_counter()
        if name == "null":
            cells = shown = null_table()
        else:
            make, by = TABLES[name]
            cells = pd.DataFrame(make(arguments.samples, np.random.default_rng(arguments.seed)))
            shown = summary(cells, by)
        print(f"\n## {name} ({time.perf_counter() - start:.0f} s)\n\n{markdown(shown)}", flush=True)
        rows = json.loads(cells.round(4).to_json(orient="records"))
        saved[name] = {"samples": arguments.samples, "seed": arguments.seed, "cells": rows}
    lines = [f' "{name}": {{"samples": {of["samples"]}, "seed": {of["seed"]}, "cells": [\n  '
             + ",\n  ".join(json.dumps(row) for row in of["cells"]) + "\n ]}" for name, of in saved.items()]  # fmt: skip
    partial = RESULT.with_suffix(".partial")
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    partial.replace(RESULT)


if __name__ == "__main__":
    main()
