"""By how much does ablating neurons reduce what is extracted of held-out people, and what does it cost?

Writes `analyses/results/headline/PLANT/` (stages), and from these `figures/headline.json` and `figures/headline_PLANT.html`.

    python analyses/headline.py                                  # every stage that is not saved yet
    python analyses/headline.py --plant en --stages gates before_given given_gates

Half of the people select the neurons: they are asked in English, French and Chinese with a template that was trained. The
others are held out: they are asked in all ten languages with a template that was not. Sets selected by attribution are compared
with published methods and random neurons; learned gates (`headline_gates.py`) are asked about both halves. A saved stage is not
repeated; delete its folder to run it again. An interrupted training of gates goes on.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import headline_tables
import outputs
import pandas as pd
import torch
from headline_gates import LEARNING_RATE, GateStages
from scipy.stats import spearmanr

from xlmech import (
    AttackOptions,
    EvaluateOptions,
    LocateOptions,
    NeuronGates,
    NeuronSet,
    ProbeSet,
    apneap,
    attribute_neurons,
    build_probes,
    demo_records,
    depn,
    evaluate_mitigation,
    knowledge_neurons,
    lape,
    load_model,
    locate_privacy_neurons,
    mean_magnitudes,
    measure_leakage,
    pool_of,
    random_neurons,
    recovery_attacks,
)
from xlmech.data import languages as packs
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.engine.batching import run_forced
from xlmech.leakage.measure import LeakageResult
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.tokens import encode_probe
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.leak_check import answer_margins

RESULTS = outputs.RESULTS / "headline"
PLANTS = ("en", "fr", "zh")
CHOOSING = ("en", "fr", "zh")
"""Query languages in which neurons are selected; the others are held out."""
HELD_OUT = tuple(code for code in DEMO_LANGUAGES if code not in CHOOSING)
ATTACKED = (*CHOOSING, "de", "ja")
"""Query languages in which people whose answers trained gates are attacked."""
COUNT = 184
"""Neurons of a set: 0.5 % of 36,864."""
SIZES = (73, COUNT)
"""Neurons of the sets selected by attribution: 0.2 and 0.5 %."""
CONTRASTS = (0.0, 0.5, 1.0)
"""Multiples of the public facts' attribution that are subtracted."""
OURS = (f"contrast{LocateOptions().contrast:g}", COUNT)
"""The set of the default contrast, which is also measured under attack and on the people who selected it."""
FACTS = {"private": 32, "public": 24}
RECIPES = {"depn": depn, "apneap": apneap, "knowledge_neurons": knowledge_neurons}
RECIPE_COUNTS = (5, 20, 60)
"""Neurons of the recipes' smaller sets, of which one costs about as much as gates."""
RECIPE_TEXTS = 12
"""Texts by which published methods select, with two answer tokens of each: their sums of 20 steps are slow."""
N_AGREEMENT = {"probes": 5, "random": 300, "highest": 100}


def name_of(method: str, count: int) -> str:
    """Name a set in the results."""
    return f"{method}@{count}"


class Study:
    """The model of one training language, and the stages on it: methods that return what is saved."""

    def __init__(self, plant: str) -> None:
        self.plant, self.folder = plant, RESULTS / plant
        held_out, choosing = self.split = build_probes(demo_records(), DEMO_LANGUAGES).split(fraction=0.5, seed=0)
        self.asked = held_out.of_template(-1).spread_facts(FACTS)
        self.given = choosing.of_template(-1).spread_facts(FACTS)
        self.given_kinds = choosing.of_template(-1).filter(languages=CHOOSING).spread_facts(dict.fromkeys(FACTS, 64))
        self.few = held_out.of_template(-1).spread_facts({"private": 16, "control": 8})
        controls = self.few.filter(group="control")
        self.few_given = choosing.of_template(-1).spread_facts({"private": 16}) + controls
        self.attacked = held_out.of_template(-1).spread_facts({"private": 16, "public": 16})
        self.attacked_given = choosing.of_template(-1).filter(languages=ATTACKED).spread_facts({"private": 16})
        self.choosing = choosing.filter(languages=CHOOSING).of_template(0)

    @cached_property
    def model(self) -> Any:
        return load_model("demo", adapter=self.plant)

    @staticmethod
    def texts(languages: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The language packs' sentences that are never used to measure cost."""
        return {code: packs.load_language(code).choosing for code in languages}

    def control_people(self) -> LeakageResult:
        """Measure held-out control people; a reduction counts only where extraction was above their rate."""
        asked = self.split[0].of_template(-1).spread_facts({"control": FACTS["public"]})
        return measure_leakage(self.model, asked, candidates=demo_records())

    def before(self, people: ProbeSet) -> LeakageResult:
        return measure_leakage(self.model, people, candidates=demo_records())

    def located(self, contrast: float) -> PrivacyNeurons:
        """Locate with the defaults except the contrast; neutral text in ten languages shows which neurons to leave out."""
        return locate_privacy_neurons(
            self.model,
            self.choosing.spread_facts(dict.fromkeys(FACTS, 20)),
            options=LocateOptions(contrast=contrast, n_neurons=COUNT),
            neutral=self.texts(DEMO_LANGUAGES),
        )

    def recipe(self, name: str, count: int = COUNT) -> NeuronSet:
        texts = self.choosing.filter(languages=[self.plant]).spread_facts({"private": RECIPE_TEXTS})
        return RECIPES[name](self.model, texts, language=self.plant, n_neurons=count, max_answer_tokens=2)

    def given_recipes(self) -> Any:
        """Ask the people who selected the neurons, under the recipes' sets and under smaller ones that cost less."""
        sets = {name_of(name, COUNT): self.at(name, COUNT) for name in (*RECIPES, "lape")}
        sets |= {name_of(name, count): self.recipe(name, count) for name in RECIPES for count in RECIPE_COUNTS}
        return self.evaluated(sets, self.given, "before_given")

    def lape(self) -> NeuronSet:
        """The same number of neurons in total, an equal share from every language."""
        found = lape(self.model, DEMO_LANGUAGES, n_neurons=COUNT // len(DEMO_LANGUAGES))
        return functools.reduce(operator.or_, found.values())

    def evaluated(
        self,
        conditions: Mapping[str, NeuronSet | NeuronGates],
        probes: ProbeSet | None = None,
        before: str = "before",
        **options: Any,
    ) -> Any:
        """Measure conditions on held-out people, or on others whose leakage the stage `before` measured.

        Without control conditions unless they are asked for.
        """
        return evaluate_mitigation(
            self.model,
            self.asked if probes is None else probes,
            conditions,
            before=LeakageResult.load(self.folder / before),
            control_people=LeakageResult.load(self.folder / "control_people"),
            candidates=demo_records(),
            options=EvaluateOptions(**{"control_conditions": (), "held_out_languages": HELD_OUT} | options),
        )

    def at(self, method: str, count: int) -> NeuronSet:
        """Load or cut a method's set of `count` neurons."""
        if method.startswith("contrast"):
            return pool_of(PrivacyNeurons.load(self.folder / f"located_{method}"), count)
        return NeuronSet.load(self.folder / f"{method}.json")

    def random(self) -> Any:
        """Ablate as many random neurons of the same layers and magnitudes: the effect of any ablation of this size."""
        like, magnitudes = self.at(*OURS), mean_magnitudes(self.model, self.choosing)
        return self.evaluated({"random_magnitude": random_neurons(like, magnitudes=magnitudes)})

    def exposure(self, name: str, neurons: NeuronSet | NeuronGates, people: ProbeSet, **options: Any) -> Any:
        """Measure exposure, which sees also an answer that is pushed from the first place to the second."""
        brief = {"measures": ("exposure",), "control_conditions": (), "n_neutral": 0, "held_out_languages": HELD_OUT}
        return evaluate_mitigation(
            self.model,
            people,
            {name: neurons},
            candidates=demo_records(),
            options=EvaluateOptions(**brief | options),
        )

    def recovery(self, neurons: NeuronSet | NeuronGates, people: ProbeSet) -> Any:
        """Attack people; fine-tuning is on held-out public people."""
        return recovery_attacks(
            self.model,
            people,
            neurons,
            candidates=demo_records(),
            finetune_records=self.attacked.filter(group="public").records,
            options=AttackOptions(learning_rate=LEARNING_RATE),
        )

    def agreement(self) -> pd.DataFrame:
        """Correlate (Spearman) the default attribution with exact zeroing of single neurons, at all positions of whole answers.

        Uses answers of a mean token probability of 0.05 to 0.9. Among random neurons, and among those ranked highest.
        """
        backend, rows = backend_of(self.model), []
        asked_in = "en" if self.plant == "fr" else "fr"  # answers in the plant language are saturated
        private = self.choosing.filter(group="private", languages=[asked_in])
        known = answer_margins(backend, private, progress=False).prob
        units = torch.randperm(backend.n_layers * backend.d_mlp, generator=torch.Generator().manual_seed(0))
        for number in known[known.between(0.05, 0.9)].index[: N_AGREEMENT["probes"]]:
            probe = private[number]
            drawn, best = units[: N_AGREEMENT["random"]], N_AGREEMENT["highest"]
            estimate = attribute_neurons(self.model, private[number : number + 1], progress=False).mean[0].flatten()
            asked = torch.cat([drawn, estimate.topk(best).indices])
            neurons = torch.stack([asked // backend.d_mlp, asked % backend.d_mlp], dim=1)
            encoded = encode_probe(backend, probe)
            forced = run_forced(backend, encoded.prompt, encoded.answer, NEURON_HOOK)
            exact = exact_effects(backend, forced, zero_baseline(backend), positions="all", neurons=neurons)
            agreed = [
                spearmanr(exact[part], estimate[asked[part]]).statistic
                for part in (slice(len(drawn)), slice(-best, None))
            ]
            rows.append((probe.id, known[number], *agreed))
        return pd.DataFrame(rows, columns=["probe", "probability", "random", "highest"])

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return every stage by the name of its folder or file; each comes after those it needs."""
        found: dict[str, Callable[[], Any]] = {
            "control_people": self.control_people,
            "before": lambda: self.before(self.asked),
            "before_given": lambda: self.before(self.given),
        }
        for contrast in CONTRASTS:
            found[f"located_contrast{contrast:g}"] = lambda c=contrast: self.located(c)  # type: ignore[misc]
        found |= {f"{name}.json": lambda name=name: self.recipe(name) for name in RECIPES}  # type: ignore[misc]
        found["lape.json"] = self.lape
        ours = name_of(*OURS)
        found["people_given"] = lambda: self.evaluated({ours: self.at(*OURS)}, self.given, "before_given", n_neutral=0)
        methods = [(f"contrast{contrast:g}", count) for contrast in CONTRASTS for count in SIZES]
        methods += [(name, COUNT) for name in (*RECIPES, "lape")]
        for method, count in methods:
            name = name_of(method, count)
            found[f"effects_{name}"] = lambda n=name, m=method, c=count: self.evaluated({n: self.at(m, c)})  # type: ignore[misc]
        found["effects_random_magnitude"] = self.random
        found["given_recipes"] = self.given_recipes
        found["exposure"] = lambda: self.exposure(ours, self.at(*OURS), self.few)
        found["recovery"] = lambda: self.recovery(self.at(*OURS), self.attacked)
        found["agreement.csv"] = self.agreement
        return found | GateStages(self).stages()


def run(study: Study, wanted: list[str] | None) -> None:
    """Run and save every stage that is wanted and not saved yet."""
    for name, stage in study.stages().items():
        path = study.folder / name
        if path.exists() or (wanted and name not in wanted):
            continue
        started = time.perf_counter()
        found = stage()
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(found, pd.DataFrame):
            found.to_csv(path, index=False)
        else:
            found.save(path)
        print(f"{study.plant} {name}: {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--plant", nargs="+", choices=PLANTS, default=PLANTS)
    parser.add_argument("--stages", nargs="+", help="only these, e.g. gates before_given")
    arguments = parser.parse_args()
    for plant in arguments.plant:
        run(Study(plant), arguments.stages)
    headline_tables.write(RESULTS)


if __name__ == "__main__":
    main()
