"""Write `figures/headline.json` and `figures/headline_PLANT.html` from the saved stages of `headline.py`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import outputs
import pandas as pd
from headline_gate_tables import rows_of_gates
from headline_rows import Row, interval, kept, leaking, reductions, row

from xlmech import MitigationResult, RecoveryResult, figures

OURS = "contrast0.5@184"
"""The set selected by attribution with the default contrast."""
RECIPES = ("depn", "apneap", "knowledge_neurons", "lape")


def loaded(folder: Path) -> dict[str, MitigationResult]:
    """Load the evaluations on held-out people, by the name of their set."""
    return {
        path.name.removeprefix("effects_"): MitigationResult.load(path) for path in sorted(folder.glob("effects_*"))
    }


def rows_of(plant: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of one training language, from the stages that are saved."""
    evaluated = loaded(folder)
    for name, result in evaluated.items():
        if name.startswith("contrast"):
            yield from of_set(plant, name, result)
    if (folder / "people_given").is_dir():
        yield from of_people_given(plant, OURS, MitigationResult.load(folder / "people_given"))
    if (folder / "exposure").is_dir():
        yield from of_exposure(plant, OURS, MitigationResult.load(folder / "exposure"))
    if "random_magnitude" in evaluated:
        for query, part in leaking(evaluated["random_magnitude"], "random_magnitude").iterrows():
            name = "reduction by random neurons, matched by layer and magnitude"
            yield row(name, plant, str(query), interval(part), 0.02, most=True)
    yield from better_than_recipes(plant, evaluated)
    if (folder / "recovery").is_dir():
        yield from of_recovery(plant, OURS, RecoveryResult.load(folder / "recovery"))
    yield from rows_of_gates(plant, folder)
    if (folder / "agreement.csv").exists():
        table, asked_in = pd.read_csv(folder / "agreement.csv"), "en" if plant == "fr" else "fr"
        for which in ("random", "highest"):
            found = table[which].median(), table[which].min(), table[which].max()
            name = f"attribution: Spearman with exact ablation, {which} neurons, median (lowest, highest probe)"
            yield row(name, plant, asked_in, found, 0.95)


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


def of_people_given(plant: str, name: str, result: MitigationResult) -> Iterator[Row]:
    """Yield the same for the people whose answers selected the set, asked with another template."""
    for query, part in leaking(result, name).iterrows():
        figure = f"{name}: reduction, people who chose the neurons"
        yield row(figure, plant, str(query), interval(part), 0.8, regime="given")
    figure = f"{name}: public facts of people who chose kept"
    yield row(figure, plant, "all", kept(result.extraction, name), 0.95, regime="given")


def of_exposure(plant: str, name: str, result: MitigationResult) -> Iterator[Row]:
    private = reductions(result.effects, name)
    for query, part in private[private.before >= 1].iterrows():
        yield row(f"{name}: reduction of exposure above controls", plant, str(query), interval(part), 0.6)


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
        mean_factors={name: factor for part in parts for name, factor in part.mean_factors.items()},
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
