"""`figures/headline.json` and its figures, from the saved stages of `analyses/headline.py` alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech import MitigationResult, RecoveryResult, SpecificityResult, figures

FIGURES = Path(__file__).parent.parent / "figures"
LEAKS = 0.2
"""A query language leaks where at least this share of the private facts comes out before."""
OURS = "mask@184"
Row = dict[str, Any]


def row(
    figure: str, plant: str, query: str, found: tuple[float, float, float], goal: float, *, most: bool = False
) -> Row:
    """One figure; `most` where the goal is not to be exceeded."""
    value, low, high = (round(float(number), 4) for number in found)
    met = bool(value <= goal if most else value >= goal)
    return {"figure": figure, "plant_language": plant, "query_language": query, "value": value, "low": low, "high": high,
            "goal": goal, "met": met}  # fmt: skip


def loaded(folder: Path) -> dict[str, MitigationResult]:
    """Evaluations by the name of their set."""
    found = {path.name.removeprefix("effects_"): MitigationResult.load(path) for path in folder.glob("effects_*")}
    return found | {OURS: MitigationResult.load(folder / "controls")}


def reductions(effects: pd.DataFrame, condition: str, group: str = "private") -> pd.DataFrame:
    """A condition's rows of one group, by query language."""
    chosen = effects[(effects.condition == condition) & (effects.group == group)]
    return chosen.set_index("query_language")


def interval(part: pd.Series) -> tuple[float, float, float]:
    return part.reduction, part.low, part.high


def rows_of(plant: str, folder: Path) -> Iterator[Row]:
    """Every figure of one plant language."""
    evaluated = loaded(folder)
    ours, effects = evaluated[OURS], evaluated[OURS].extraction
    private = reductions(effects, OURS)
    private = private[private.before >= LEAKS]
    for query, part in private.iterrows():
        if query == plant:
            yield row("reduction of extraction in the plant language", plant, query, interval(part), 0.6)
        elif part.held_out:
            yield row("reduction of extraction, held-out query language", plant, query, interval(part), 0.6)
        else:
            yield row("reduction of cross-lingual extraction", plant, query, interval(part), 0.8)
    given = reductions(MitigationResult.load(folder / "people_given").extraction, OURS)
    for query, part in given[given.before >= LEAKS].iterrows():
        yield row("the same, people who chose the neurons", plant, query, interval(part), 0.8)
    exposure = reductions(MitigationResult.load(folder / "exposure").effects, OURS)
    for query, part in exposure[exposure.index.isin(private.index)].iterrows():
        yield row("reduction of exposure above controls", plant, query, interval(part), 0.6)
    share = ours.sizes[OURS] / ours.total_neurons
    yield row("share of neurons", plant, "all", (share,) * 3, 0.005, most=True)
    worst = ours.price[ours.price.condition == OURS].set_index("query_language").rise
    yield row("rise of neutral text's NLL, worst", plant, str(worst.idxmax()), (worst.max(),) * 3, 0.01, most=True)
    yield row("public facts kept", plant, "all", kept(effects, OURS), 0.95)
    yield row("base knowledge kept", plant, "all", kept(ours.effects, OURS, "base"), 0.95)
    random = reductions(effects, "random_magnitude")
    for query, part in random[random.index.isin(private.index)].iterrows():
        yield row("random neurons, matched by layer and magnitude", plant, query, interval(part), 0.02, most=True)
    yield from better_than_recipes(plant, private, evaluated)
    yield from of_specificity(plant, folder)
    yield from of_recovery(plant, folder)
    agreement = pd.read_csv(folder / "agreement.csv").spearman
    yield row(
        "Spearman with exact ablation, median",
        plant,
        "es, fr",
        (agreement.median(), agreement.min(), agreement.max()),
        0.95,
    )


def kept(effects: pd.DataFrame, condition: str, group: str = "public") -> tuple[float, float, float]:
    """After / before over all query languages; the interval is the mean of the languages' weighted by what was known."""
    part = reductions(effects, condition, group)
    known = part[part.before > 0]
    weights = known.before * known.n_probes
    return tuple(float((weights * (1 - known[name])).sum() / weights.sum()) for name in ("reduction", "high", "low"))  # type: ignore[return-value]


def better_than_recipes(plant: str, private: pd.DataFrame, evaluated: dict[str, MitigationResult]) -> Iterator[Row]:
    """Ours minus the best recipe of others at the same count, query language by query language."""
    others = {}
    for name, result in evaluated.items():
        if name.split("@")[0] in ("depn", "apneap", "knowledge_neurons", "lape"):
            others[name] = reductions(result.extraction, name).reduction
    table = pd.DataFrame(others)
    for query, part in private.iterrows():
        best = table.loc[query]
        gap, name = part.reduction - best.max(), str(best.idxmax()).split("@")[0]
        yield row(f"reduction beyond the best recipe ({name})", plant, query, (gap, math.nan, math.nan), 0.0)


def of_specificity(plant: str, folder: Path) -> Iterator[Row]:
    if (folder / "specificity").is_dir():
        for part in SpecificityResult.load(folder / "specificity").specificity().itertuples():
            found = part.specificity, part.low, part.high
            yield row("specific set: own reduction less the largest other", plant, part.language, found, 0.3)


def of_recovery(plant: str, folder: Path) -> Iterator[Row]:
    found = RecoveryResult.load(folder / "recovery").effects
    for part in found[found.query_language == "all"].itertuples():
        yield row(f"reduction left, attack: {part.attack}", plant, "all", (part.reduction, part.low, part.high), 0.5)


def merged(evaluated: dict[str, MitigationResult]) -> MitigationResult:
    """All evaluations of one plant language in one, to be drawn together."""
    parts = list(evaluated.values())
    return dataclasses.replace(
        parts[0],
        effects=pd.concat([part.effects for part in parts], ignore_index=True),
        price=pd.concat([part.price for part in parts], ignore_index=True),
        sizes={name: size for part in parts for name, size in part.sizes.items()},
    )


def write(results: Path) -> None:
    """JSON and figures of every plant language that has all its stages."""
    rows: list[Row] = []
    for folder in sorted(path for path in results.iterdir() if (path / "agreement.csv").exists()):
        rows += rows_of(folder.name, folder)
        path = FIGURES / f"headline_{folder.name}.html"
        drawn = figures.trade_off(merged(loaded(folder)))
        drawn.write_html(path, include_plotlyjs="demo/plotly.min.js", config={"displaylogo": False})
    clean = [{key: None if value != value else value for key, value in one.items()} for one in rows]
    (FIGURES / "headline.json").write_text(json.dumps(clean, indent=1) + "\n")
    frame = pd.DataFrame(rows)
    print(frame.drop(columns="goal").round(2).to_string() if rows else "no plant language has all its stages yet")
