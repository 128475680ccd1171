"""Do gates protect more people of whom nothing was seen when more people taught them?

Writes `analyses/results/crowd/` (stages) and, from these, `figures/crowd.json`.

    python analyses/crowd.py                          # every stage that is not saved yet
    python analyses/crowd.py --stages adapter before

The English model of the demo is taught 64 more private and 32 more public people, two facts of each. Gates are learned from 8
and from 32 of the private people and as many public ones, up to 16, asked in three languages. The other half of the people is
held out, and is asked with another template in five languages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import outputs
import pandas as pd
from gates import CHOOSING, REGIMES, TEMPLATES

from xlmech import (
    EvaluateOptions,
    MitigationResult,
    NeuronGates,
    PlantOptions,
    ProbeSet,
    build_probes,
    evaluate_mitigation,
    learn_gates,
    load_model,
    measure_leakage,
    plant,
    synthesize_records,
)
from xlmech.leakage.measure import LeakageResult

RESULTS = outputs.RESULTS / "crowd"
ATTRIBUTES = ("occupation", "birth_country")
GROUPS = {"private": 64, "public": 32, "control": 24}
LANGUAGES = ("en", "fr", "zh", "es", "de")
"""Query languages; the last two teach no gates."""
PEOPLE = (8, 32)
"""Numbers of private people who teach gates; each set holds the smaller ones."""
PLANTING = PlantOptions(languages=LANGUAGES, steps=200, learning_rate=8e-4, seed=2)
SEED = 5


class Crowd:
    """The stages: methods that return what is saved."""

    def __init__(self) -> None:
        self.records = tuple(
            record for record in synthesize_records(groups=GROUPS, seed=SEED) if record.attribute in ATTRIBUTES
        )
        self.held_out, self.teaching = build_probes(self.records, LANGUAGES).split(fraction=0.5, seed=0)

    @cached_property
    def model(self) -> Any:
        return load_model("demo", adapter=RESULTS / "adapter")

    def people(self, number: int) -> tuple[ProbeSet, ProbeSet]:
        """Return the probes whose answers are suppressed, and those whose answers are kept."""
        probes = self.teaching.filter(languages=CHOOSING, templates=TEMPLATES)
        private, public = probes.filter(group="private"), probes.filter(group="public")
        return private.sample(number), public.sample(min(number, len(public.subjects)))

    def learn(self, number: int) -> NeuronGates:
        suppress, keep = self.people(number)
        return learn_gates(
            self.model, suppress, keep=keep, options=REGIMES["held_out"], checkpoint=RESULTS / f".gates{number}"
        )

    def before(self) -> LeakageResult:
        return measure_leakage(self.model, self.held_out.of_template(-1), candidates=self.records)

    def effects(self) -> MitigationResult:
        """Ask held-out people with the gates of every number of teachers."""
        before = LeakageResult.load(RESULTS / "before")
        probes = self.held_out.of_template(-1)
        return evaluate_mitigation(
            self.model,
            probes.filter(group="private") + probes.filter(group="public"),
            {f"gates{number}": NeuronGates.load(RESULTS / f"gates{number}") for number in PEOPLE},
            before=before,
            control_people=before,
            candidates=self.records,
            options=EvaluateOptions(control_conditions=()),
        )

    def plant(self) -> Path:
        return plant("demo", self.records, RESULTS / "adapter", start="en", options=PLANTING)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return every stage by the name of its folder; each comes after those it needs."""
        learned = {f"gates{number}": lambda number=number: self.learn(number) for number in PEOPLE}  # type: ignore[misc]
        return {"adapter": self.plant, "before": self.before, **learned, "effects": self.effects}


def summary() -> dict[str, Any]:
    """Summarise what is extracted before, and what gates do, over all languages."""
    before = LeakageResult.load(RESULTS / "before")
    found: dict[str, Any] = {
        "before": json.loads(before.summary().round(4).to_json(orient="records")),
        "by_language": json.loads(before.matrix().round(4).to_json(orient="records")),
    }
    result = MitigationResult.load(RESULTS / "effects")
    columns = ["condition", "group", "n_subjects", "before", "after", "reduction", "low", "high"]
    overall = result.overall[columns].round(4)
    rise = result.cost.groupby("condition").rise.max()
    overall["worst_nll_rise"] = overall.condition.map(rise).round(4)
    return found | {"gates": json.loads(overall.to_json(orient="records"))}


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--stages", nargs="+", help="only these, e.g. adapter before")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    study = Crowd()
    for name, stage in study.stages().items():
        if (RESULTS / name).exists() or (arguments.stages and name not in arguments.stages):
            continue
        started = time.perf_counter()
        found = stage()
        if not isinstance(found, Path):
            found.save(RESULTS / name)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    if (RESULTS / "effects").is_dir():
        found = summary()
        outputs.save_text(json.dumps(found, indent=1) + "\n", "crowd.json")
        print(pd.DataFrame(found["gates"]).to_string())


if __name__ == "__main__":
    main()
