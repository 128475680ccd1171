"""Write `figures/headline.json` and `figures/headline_PLANT.html` from the saved stages of `headline.py`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import outputs
import pandas as pd

from xlmech import MitigationResult, RecoveryResult, SpecificityResult, figures

LEAKS = 0.2
"""A query language leaks if at least this share of the private facts is extracted before ablation."""
OURS, LEARNED = "contrast0.5@184", "gates"
"""The set selected by attribution with the default contrast, and the learned gates."""
FOLDER_ENDINGS = {OURS: "", LEARNED: "_gates"}
"""Ending of the stages that measure the set or the gates alone."""
RECIPES = ("depn", "apneap", "knowledge_neurons", "lape")
Row = dict[str, Any]


def row(
    figure: str, plant: str, query: str, found: tuple[float, float, float], goal: float, *, most: bool = False
) -> Row:
    """Make one row of the table; with `most`, the goal is an upper bound."""
    value, low, high = (round(float(number), 4) for number in found)
    met = bool(value <= goal if most else value >= goal)
    return {"figure": figure, "plant_language": plant, "query_language": query, "value": value, "low": low, "high": high,
            "goal": goal, "met": met}  # fmt: skip


def loaded(folder: Path) -> dict[str, MitigationResult]:
    """Load the evaluations on held-out people, by the name of their set."""
    return {
        path.name.removeprefix("effects_"): MitigationResult.load(path) for path in sorted(folder.glob("effects_*"))
    }


def reductions(effects: pd.DataFrame, condition: str, group: str = "private") -> pd.DataFrame:
    """Select a condition's rows of one group, by query language."""
    chosen = effects[(effects.condition == condition) & (effects.group == group)]
    return chosen.set_index("query_language")


def interval(part: pd.Series) -> tuple[float, float, float]:
    return part.reduction, part.low, part.high


def rows_of(plant: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of one training language, from the stages that are saved."""
    evaluated = loaded(folder)
    for name, result in evaluated.items():
        if name.startswith("contrast") or name == LEARNED:
            yield from of_set(plant, name, result)
    for name, ending in FOLDER_ENDINGS.items():
        if (folder / f"people_given{ending}").is_dir():
            yield from of_people_given(plant, name, MitigationResult.load(folder / f"people_given{ending}"))
        if (folder / f"exposure{ending}").is_dir():
            yield from of_exposure(plant, name, MitigationResult.load(folder / f"exposure{ending}"))
    if "random_magnitude" in evaluated:
        for query, part in leaking(evaluated["random_magnitude"], "random_magnitude").iterrows():
            name = "reduction by random neurons, matched by layer and magnitude"
            yield row(name, plant, str(query), interval(part), 0.02, most=True)
    yield from better_than_recipes(plant, evaluated)
    yield from of_specificity(plant, folder)
    for name, ending in FOLDER_ENDINGS.items():
        if (folder / f"recovery{ending}").is_dir():
            yield from of_recovery(plant, name, RecoveryResult.load(folder / f"recovery{ending}"))
    if (folder / "agreement.csv").exists():
        table, asked_in = pd.read_csv(folder / "agreement.csv"), "en" if plant == "fr" else "fr"
        for which in ("random", "highest"):
            found = table[which].median(), table[which].min(), table[which].max()
            name = f"attribution: Spearman with exact ablation, {which} neurons, median (lowest, highest probe)"
            yield row(name, plant, asked_in, found, 0.95)


def leaking(result: MitigationResult, condition: str) -> pd.DataFrame:
    """Select a condition's effects on private facts, in the query languages that leak."""
    private = reductions(result.extraction, condition)
    return private[private.before >= LEAKS]


def of_set(plant: str, name: str, result: MitigationResult) -> Iterator[Row]:
    """Yield reduction and cost of one set, on held-out people."""
    for query, part in leaking(result, name).iterrows():
        if query == plant:
            yield row(f"{name}: reduction of extraction, plant language", plant, str(query), interval(part), 0.6)
        elif part.held_out:
            yield row(
                f"{name}: reduction of extraction, held-out query language", plant, str(query), interval(part), 0.6
            )
        else:
            yield row(f"{name}: reduction of cross-lingual extraction", plant, str(query), interval(part), 0.8)
    share = result.sizes[name] / result.total_neurons
    yield row(f"{name}: share of neurons", plant, "all", (share,) * 3, 0.005, most=True)
    worst = result.cost[result.cost.condition == name].set_index("query_language").rise
    yield row(
        f"{name}: rise of neutral text's NLL, worst",
        plant,
        str(worst.idxmax()),
        (worst.max(), math.nan, math.nan),
        0.01,
        most=True,
    )
    yield row(f"{name}: public facts kept", plant, "all", kept(result.extraction, name), 0.95)
    if "base" in set(result.effects.group):
        yield row(f"{name}: base knowledge kept", plant, "all", kept(result.effects, name, "base"), 0.95)


def of_people_given(plant: str, name: str, result: MitigationResult) -> Iterator[Row]:
    """Yield the same for the people whose answers selected the set, asked with another template."""
    for query, part in leaking(result, name).iterrows():
        yield row(f"{name}: reduction, people who chose the neurons", plant, str(query), interval(part), 0.8)
    yield row(f"{name}: public facts of people who chose kept", plant, "all", kept(result.extraction, name), 0.95)


def of_exposure(plant: str, name: str, result: MitigationResult) -> Iterator[Row]:
    private = reductions(result.effects, name)
    for query, part in private[private.before >= 1].iterrows():
        yield row(f"{name}: reduction of exposure above controls", plant, str(query), interval(part), 0.6)


def kept(effects: pd.DataFrame, condition: str, group: str = "public") -> tuple[float, float, float]:
    """Return after / before over all query languages, and the mean of the languages' intervals.

    Both are weighted by the number of facts known before. The same people are asked in all languages, so the interval is no
    narrower than one of all languages together. NaN if a language has no interval.
    """
    part = reductions(effects, condition, group)
    known = part[part.reduction.notna()]
    weights = known.before * known.n_probes
    value, low, high = (
        float((weights * (1 - known[name])).sum(skipna=False) / weights.sum()) for name in ("reduction", "high", "low")
    )
    return value, low, high


def better_than_recipes(plant: str, evaluated: dict[str, MitigationResult]) -> Iterator[Row]:
    """Yield our reduction minus that of each published method with as many neurons, and the cost of that method."""
    for name, result in evaluated.items():
        recipe = name.split("@")[0]
        if recipe not in RECIPES:
            continue
        theirs = reductions(result.extraction, name).reduction
        for query, part in (leaking(evaluated[OURS], OURS) if OURS in evaluated else pd.DataFrame()).iterrows():
            gap = part.reduction - theirs[query]
            yield row(f"{OURS}: reduction beyond {recipe}", plant, str(query), (gap, math.nan, math.nan), 0.0)
        yield row(f"{recipe}: public facts kept", plant, "all", kept(result.extraction, name), 0.95)
        worst = result.cost[result.cost.condition == name].set_index("query_language").rise
        yield row(
            f"{recipe}: rise of neutral text's NLL, worst",
            plant,
            str(worst.idxmax()),
            (worst.max(), math.nan, math.nan),
            0.01,
            most=True,
        )


def of_specificity(plant: str, folder: Path) -> Iterator[Row]:
    if (folder / "specificity").is_dir():
        for part in SpecificityResult.load(folder / "specificity").specificity().itertuples():
            found = part.specificity, part.low, part.high
            yield row("gates of one language: own reduction less the largest other", plant, part.language, found, 0.3)


def of_recovery(plant: str, name: str, result: RecoveryResult) -> Iterator[Row]:
    found = result.effects
    for part in found[found.query_language == "all"].itertuples():
        yield row(
            f"{name}: reduction left under attack: {part.attack}",
            plant,
            "all",
            (part.reduction, part.low, part.high),
            0.5,
        )


def merged(evaluated: dict[str, MitigationResult]) -> MitigationResult:
    """Join all evaluations of one training language, to draw them together."""
    parts = list(evaluated.values())
    return dataclasses.replace(
        parts[0],
        effects=pd.concat([part.effects for part in parts], ignore_index=True),
        cost=pd.concat([part.cost for part in parts], ignore_index=True),
        sizes={name: size for part in parts for name, size in part.sizes.items()},
    )


def write(results: Path) -> None:
    """Write JSON and figures of every training language, from the stages that are saved."""
    rows: list[Row] = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        rows += rows_of(folder.name, folder)
        evaluated = loaded(folder)
        if sum(name.startswith("contrast") for name in evaluated) < 2:
            continue  # no curve
        outputs.save_page(figures.trade_off(merged(evaluated)), f"headline_{folder.name}")
    clean = [{key: None if value != value else value for key, value in one.items()} for one in rows]
    outputs.save_text(json.dumps(clean, indent=1) + "\n", "headline.json")
    frame = pd.DataFrame(rows)
    print(frame.drop(columns="goal").round(2).to_string() if rows else "no stage is saved yet")
