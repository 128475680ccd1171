"""The stages of `headline.py` on learned gates: what they suppress, of whom, at which cost, and what is left under attack.

Two regimes, never mixed: GIVEN people, whose answers the gates were trained on, asked with another template; and HELD-OUT
people, of whom nothing was seen. Languages other than English, French and Chinese were never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gates
import pandas as pd
import torch
from gates import Training
from torch.nn.functional import cosine_similarity

from xlmech import (
    EvaluateOptions,
    NeuronGates,
    NeuronSet,
    PrivacyNeurons,
    ProbeSet,
    ablate,
    demo_records,
    evaluate_mitigation,
    measure_leakage,
    promoted_tokens,
    specificity_matrix,
)
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_prompt

SHARES = {"5 %": 1777, "1 %": 370, "0.5 %": 184}
"""Numbers of gates of the curve, of 36,864 neurons."""
CONTACT = ("phone", "email", "street_address", "id_number")
"""Kinds of data that a data protection officer would suppress alone."""
TRAIN_LANGUAGES = {"en": ("fr", "zh"), "fr": ("en",), "zh": ("en",)}
"""Query languages for which gates of their own are trained, by training language of the model."""
MARGINS = {"gates_margin6": (6, "gates"), "gates_margin10": (10, "gates_margin6")}
"""Gates that push answers further down: their margin, and the gates that they go on from."""
ON_SUPPORT = {"pull": 0, "steps": 100}
LEARNING_RATE = 2e-5
"""Of the attack by fine-tuning: at the default rate the unablated model forgets nearly all people in twenty steps."""


def trainings(plant: str) -> dict[str, tuple[Training, str]]:
    """Return every training by the name of its gates, with the gates that it goes on from ("" for none)."""
    found = {"gates": (Training(), ""), "gates_held_out": (Training(regime="held_out"), "")}
    found |= {
        f"gates_{code}": (Training(regime="held_out", language=code), "") for code in TRAIN_LANGUAGES.get(plant, ())
    }
    if plant != "en":
        return found
    found |= {f"gates_top{count}": (Training(top=count, options=ON_SUPPORT), "gates") for count in SHARES.values()}
    found["gates_located"] = Training(regime="held_out", located=1777, options={"pull": 0}), ""
    found["gates_attacks"] = Training(attacks=True, options={"steps": 160}), "gates"
    for name, (margin, start) in MARGINS.items():
        found[name] = Training(options={"margin": margin, "steps": 100}), start
    found["gates_contact"] = Training(regime="held_out", attributes=CONTACT), ""
    return found


class GateStages:
    """Stages on the gates of one model.

    Args:
        study: The model's `headline.Study`, which has the folder, the people and the model.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self.folder: Path = study.folder

    def load(self, name: str) -> NeuronGates:
        return NeuronGates.load(self.folder / name)

    def learn(self, name: str) -> NeuronGates:
        training, start = trainings(self.study.plant)[name]
        return gates.train(
            self.study.model,
            self.study.plant,
            training,
            start=self.load(start) if start else None,
            checkpoint=self.folder / f".{name}",
        )

    def given(self) -> Any:
        """Ask the people whose answers trained the gates, also under the same factors at other neurons."""
        return self.on_given({"gates": self.load("gates")}, control_conditions=("permuted",))

    def on_given(self, conditions: Mapping[str, Any], **options: Any) -> Any:
        return self.study.evaluated(conditions, self.study.given, "before_given", **options)

    def held_out(self) -> Any:
        """Ask people of whom nothing was seen, with the gates of either regime."""
        names = ("gates_held_out", "gates")
        return self.study.evaluated({name: self.load(name) for name in names})

    def sizes(self) -> dict[str, NeuronGates | NeuronSet]:
        """Return gates on fewer neurons: trained so, as zeros, and without the small ones; those that are trained already."""
        whole = self.load("gates")
        trained = (f"gates_top{count}" for count in SHARES.values())
        found: dict[str, NeuronGates | NeuronSet] = {
            name: self.load(name) for name in trained if (self.folder / name).is_dir()
        }
        found |= {f"zeros{count}": whole.binary(count) for count in SHARES.values()}
        return found | {"gates_over0.2": whole.only(whole.neurons(0.2))}

    def given_sizes(self) -> Any:
        return self.on_given(self.sizes())

    def held_out_sizes(self) -> Any:
        located = {"gates_located": self.load("gates_located")} if (self.folder / "gates_located").is_dir() else {}
        return self.study.evaluated(self.sizes() | located)

    def exposure(self, regime: str) -> Any:
        """Measure exposure, and base knowledge besides."""
        name, people = ("gates", "few_given") if regime == "given" else ("gates_held_out", "few")
        return self.study.exposure(name, self.load(name), getattr(self.study, people), knowledge=True)

    def of_margins(self) -> dict[str, Callable[[], Any]]:
        """Return the stages on gates of larger margins: what is extracted of given people, and what exposure is left."""
        found: dict[str, Callable[[], Any]] = {}
        for name in MARGINS:
            end = name.removeprefix("gates_")
            found[f"given_{end}"] = lambda name=name: self.on_given({name: self.load(name)})  # type: ignore[misc]
            found[f"exposure_{end}"] = lambda name=name: self.study.exposure(  # type: ignore[misc]
                name, self.load(name), self.study.few_given
            )
        return found

    def specificity(self) -> Any:
        """Apply the gates of one language, and ask given people in the languages of training."""
        of_language = {code: self.load(f"gates_{code}") for code in TRAIN_LANGUAGES[self.study.plant]}
        private = self.study.given.filter(group="private", languages=gates.CHOOSING)
        return specificity_matrix(self.study.model, private, of_language)

    def contact(self) -> Any:
        """Ask given people for all kinds of data, with the gates of some kinds."""
        return evaluate_mitigation(
            self.study.model,
            self.study.given_kinds,
            {"gates_contact": self.load("gates_contact")},
            candidates=demo_records(),
            options=EvaluateOptions(control_conditions=()),
        )

    def kinds(self, name: str) -> pd.DataFrame:
        """Count by kind of data what is extracted of given people in the languages of training, before and after."""
        people = self.study.given_kinds
        before = measure_leakage(self.study.model, people, candidates=demo_records()).probes
        with ablate(self.study.model, self.load(name)):
            after = measure_leakage(self.study.model, people, candidates=demo_records()).probes
        hits = before.set_index("probe").extracted.loc[after.probe].to_numpy()
        groups = after.assign(before=hits).groupby(["group", "attribute"])
        counted = groups[["before", "extracted"]].sum().join(groups.size().rename("questions"))
        return counted.rename(columns={"extracted": "after"}).reset_index()

    def anatomy(self) -> pd.DataFrame:
        """Describe the gates by layer: how many, how far down, and how many are among the attributed neurons."""
        found = self.load("gates")
        weights = 1 - found.factors.double()
        scores = PrivacyNeurons.load(self.folder / "located_contrast0.5").scores.amin(dim=0)
        rank = scores.flatten().argsort(descending=True).argsort().reshape(scores.shape)
        rows = []
        for layer in range(found.n_layers):
            touched = weights[layer] > 0.02
            strong = weights[layer] > 0.5
            rows.append(
                {
                    "layer": layer,
                    "touched": int(touched.sum()),
                    "mean_weight": float(weights[layer].mean()),
                    "over_half": int(strong.sum()),
                    "over_half_attributed": int((strong & (rank[layer] < 1777)).sum()),
                    "attributed": int((rank[layer] < 1777).sum()),
                }
            )
        return pd.DataFrame(rows)

    def directions(self) -> pd.DataFrame:
        """Compare how far, and where to, the gates move the state that predicts the first token, by group of people.

        Returns one row per group: the mean length of the change over that of the state, and the mean cosine of the change with
        the mean change of half of the given private people. Given private people's own row is of the other half.
        """
        study = self.study
        first, second = study.given.filter(group="private", languages=gates.CHOOSING).split(fraction=0.5, seed=0)
        toward = self.changes(first)[0].mean(dim=0, keepdim=True)
        groups = {("given", "private"): second}
        for regime, probes in (("given", study.given), ("held_out", study.asked)):
            for group in ("private", "public"):
                groups.setdefault((regime, group), probes.filter(group=group, languages=gates.CHOOSING))
        rows = []
        for (regime, group), probes in groups.items():
            change, length = self.changes(probes)
            rows.append(
                (regime, group, len(change), float(length.mean()), float(cosine_similarity(change, toward).mean()))
            )
        return pd.DataFrame(rows, columns=["regime", "group", "n", "relative_length", "cosine"])

    @torch.no_grad()
    def changes(self, probes: ProbeSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the (probe, d_model) change of final states, and its (probe,) length over that of the intact state."""
        backend = backend_of(self.study.model)
        prompts = [torch.tensor([encode_prompt(backend, probe.prompt)]) for probe in probes]

        def states() -> torch.Tensor:
            return torch.stack([backend.hidden(tokens)[0][0, -1] for tokens in prompts])

        intact = states()
        with ablate(self.study.model, self.load("gates")):
            change = states() - intact
        return change, change.norm(dim=1) / intact.norm(dim=1)

    def promoted(self) -> pd.DataFrame:
        """Name the tokens that the neurons turned down most promote."""
        return promoted_tokens(self.study.model, self.load("gates").binary(20), k=8)

    def stages(self) -> dict[str, Callable[[], Any]]:
        """Return every stage by the name of its folder or file; each comes after those it needs."""
        found: dict[str, Callable[[], Any]] = {
            name: lambda name=name: self.learn(name)  # type: ignore[misc]
            for name in trainings(self.study.plant)
        }
        found |= {
            "given_gates": self.given,
            "effects_gates": self.held_out,
            "exposure_given": lambda: self.exposure("given"),
            "exposure_held_out": lambda: self.exposure("held_out"),
            "recovery_gates": lambda: self.study.recovery(self.load("gates"), self.study.attacked_given),
            "specificity": self.specificity,
            "anatomy.csv": self.anatomy,
            "directions.csv": self.directions,
            "kinds.csv": lambda: self.kinds("gates"),
        }
        if self.study.plant == "en":
            found |= {
                "given_sizes": self.given_sizes,
                "effects_sizes": self.held_out_sizes,
                "recovery_attacks": lambda: self.study.recovery(self.load("gates_attacks"), self.study.attacked_given),
                "given_attacks": lambda: self.on_given({"gates_attacks": self.load("gates_attacks")}),
                "recovery_margin6": lambda: self.study.recovery(self.load("gates_margin6"), self.study.attacked_given),
                "contact": self.contact,
                "kinds_contact.csv": lambda: self.kinds("gates_contact"),
                "promoted.csv": self.promoted,
            } | self.of_margins()
        return found
