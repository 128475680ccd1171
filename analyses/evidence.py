"""Are privacy neurons the same when other people are asked, do languages share them, or do they belong to one language?

Writes `analyses/results/headline/PLANT/evidence/` and, from all of these, `figures/evidence.json`.

    python analyses/evidence.py
    python analyses/evidence.py --plant en

Uses the people and questions by which `analyses/headline.py` selected its neurons, so run that script's stages `located_*`
first. A training language (PLANT) whose folder exists is not measured again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import outputs
import pandas as pd
from headline import CHOOSING, COUNT, OURS, PLANTS, RESULTS, Study

from xlmech import (
    AttributionResult,
    NeuronSet,
    PrivacyNeurons,
    ProbeSet,
    StabilityResult,
    attribute_neurons,
    depth_of,
    language_overlap,
    lape,
    layer_spread,
    pool_of,
    promoted_tokens,
    selection_stability,
    set_overlap,
)
from xlmech.data.readers import DEMO_LANGUAGES

POOL = 8000
"""Neurons whose effect is kept for every probe; a new selection is made among these."""
FACTS = {"private": 20, "public": 20}
N_PROMOTING = 10
N_PERMUTATIONS = 1000


class Evidence:
    """The measurements on the model of one training language."""

    def __init__(self, plant: str) -> None:
        self.study = Study(plant)
        self.folder = self.study.folder / "evidence"
        self.located = PrivacyNeurons.load(self.study.folder / f"located_{OURS[0]}")
        _, choosing = self.study.split
        both = choosing.of_template(0) + choosing.of_template(1)
        self.probes = both.filter(languages=CHOOSING).spread_facts(FACTS)

    def attributed(self, group: Any) -> AttributionResult:
        """Attribute as the headline's neurons were selected, with a second template besides."""
        asked: ProbeSet = self.probes.filter(group=group)
        return attribute_neurons(self.study.model, asked, track=pool_of(self.located, POOL))

    def sets(self, public: AttributionResult) -> tuple[dict[str, NeuronSet], dict[str, NeuronSet]]:
        """Return the privacy neurons, and the sets to compare them with: for public facts, and of every language."""
        mine = {"universal": self.study.at(*OURS)} | dict(self.located.specific)
        facts = pool_of(dataclasses.replace(self.located, scores=public.mean), COUNT)
        of_language = lape(self.study.model, DEMO_LANGUAGES, n_neurons=COUNT)
        return mine, {"public facts": facts} | {f"LAPE {code}": of_language[code] for code in CHOOSING}

    def measure(self) -> None:
        private, public = self.attributed("private"), self.attributed("public")
        mine, others = self.sets(public)
        tables = {
            "overlap": set_overlap(mine, others),
            "languages": language_overlap(private, n_neurons=COUNT, n_permutations=N_PERMUTATIONS),
            "depth": depth_of(mine | others, against="universal"),
            "layers": layer_spread(mine | others),
            "promoted": promoted_tokens(self.study.model, pool_of(self.located, N_PROMOTING), k=8),
        }
        stable = selection_stability(private, public, n_neurons=COUNT)
        stable.save(self.folder / "stability")
        for name, table in tables.items():
            table.to_parquet(self.folder / f"{name}.parquet", index=False)


def summary(folder: Path) -> dict[str, Any]:
    """Summarise the saved tables of one training language."""
    stable = StabilityResult.load(folder / "stability")
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("overlap", "languages", "depth")}
    shares = stable.neurons[stable.neurons.chosen].share
    return {
        "stability": json.loads(stable.summary().to_json(orient="records")),
        "chosen_in_half_of_the_draws": float((shares >= 0.5).mean()),
        "tracked": stable.tracked,
    } | {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--plant", nargs="+", choices=PLANTS, default=PLANTS)
    for plant in parser.parse_args().plant:
        one, started = Evidence(plant), time.perf_counter()
        if not one.folder.exists():
            one.measure()
            print(f"{plant}: {time.perf_counter() - started:.0f} s", flush=True)
    found = {
        plant: summary(RESULTS / plant / "evidence") for plant in PLANTS if (RESULTS / plant / "evidence").exists()
    }
    outputs.save_text(json.dumps(found, indent=1) + "\n", "evidence.json")
    for plant, one in found.items():
        print(plant, f"{one['chosen_in_half_of_the_draws']:.0%} of the neurons in half of the draws")
        for name in ("stability", "languages", "overlap", "depth"):
            print(pd.DataFrame(one[name]).round(3).to_string())


if __name__ == "__main__":
    main()
