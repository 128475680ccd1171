"""Every public function refuses a choice that it does not know, and a text where a list is meant, before the model runs.

The functions and their choices are found by inspection, so that a new one is held to it.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from helpers.people import person
from helpers.public import public_names
from helpers.toy_figures import lens, patching, similarity, sweep
from helpers.toy_results import leakage

import xlmech
from xlmech.checks import check_choice, check_choices, check_list
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import save_records
from xlmech.explorer.circuit import Circuit
from xlmech.explorer.saved.run import SavedRun
from xlmech.models.backends import BridgeBackend, HookedBackend, backend_of
from xlmech.models.load import model_name
from xlmech.neurons.evidence.interpret import NeuronActivations
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Provenance

STRANGE = "no such choice"
LISTS = (abc.Sequence, abc.Iterable, abc.Collection, list, tuple)
OF_KNOWN = ("languages", "attributes", "templates")
"""Endings of parameters whose lists hold known names, though their type does not say which."""


@dataclass(frozen=True)
class Case:
    function: str
    parameter: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.function}({self.parameter}={self.value!r})"


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in public_names():
        found = getattr(xlmech, name)
        if inspect.isclass(found):
            for method, function in inspect.getmembers(found, callable):
                if not method.startswith("_") and getattr(function, "__module__", "").startswith("xlmech"):
                    yield f"{name}.{method}", function
        elif callable(found):
            yield name, found
    for name in xlmech.figures.__all__:
        if inspect.isfunction(found := getattr(xlmech.figures, name)):
            yield f"figures.{name}", found


def alternatives(hint: Any) -> list[Any]:
    if get_origin(hint) in (typing.Union, types.UnionType):
        return [part for one in get_args(hint) for part in alternatives(one)]
    return [hint]


def cases() -> Iterator[Case]:
    known = {name: getattr(xlmech, name) for name in public_names()} | {"Dataset": Any}
    for name, function in public_functions():
        for parameter, hint in typing.get_type_hints(inspect.unwrap(function), localns=known).items():
            if parameter == "return":
                continue
            kinds = alternatives(hint)
            for kind in kinds:
                inner = get_args(kind)[:1]
                named = bool(inner) and get_origin(inner[0]) is Literal
                if get_origin(kind) is Literal:
                    yield Case(name, parameter, STRANGE, STRANGE)
                elif get_origin(kind) in (dict, abc.Mapping) and named:
                    yield Case(name, parameter, {STRANGE: 1}, STRANGE)
                elif get_origin(kind) in (dict, abc.Mapping) and get_args(kind) == (str, abc.Sequence[str]):
                    yield Case(name, parameter, {"en": "one text"}, "list of sentences")
                elif get_origin(kind) in LISTS and (named or inner in ((str,), (int,))) and str not in kinds:
                    yield Case(name, parameter, 2 if inner == (int,) else "fr", "list")
                    if named or parameter.endswith(OF_KNOWN):
                        yield Case(name, parameter, [99 if inner == (int,) else STRANGE], "99|" + STRANGE)


CASES = list(cases())


@pytest.fixture
def arguments(model: Any, probes: ProbeSet, tmp_path: Path) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each function is called with besides the choice: enough to come as far as checking it."""
    backend = backend_of(model)
    chosen = NeuronSet(frozenset({(0, 1)}), backend.n_layers, backend.d_mlp, model_name(model))
    pairs = build_probes([person(0), person(1)], ["fr", "es"], templates=[0]).pairs(source="fr", target="es")
    records = probes.records
    save_records(records, records_file := tmp_path / "people.csv")
    fires = NeuronActivations(
        tokens=sweep().tokens.assign(probe="p", query_language="fr"),
        activations=torch.zeros(5, 1),
        layers=(0,),
        indices=(1,),
        provenance=Provenance(model="toy"),
    )
    return {
        "ablate": ((model, chosen), {}),
        "activation_moments": ((model,), {"prompts": ["text"]}),
        "attribution_patching": ((model, pairs), {}),
        "direct_logit_attribution": ((model, probes), {}),
        "dose_response": ((model, probes, [(0, 1)]), {"n_neurons": [1]}),
        "evaluate_mitigation": ((model, probes, chosen), {}),
        "code_of": ((circuit := Circuit(model, [person(0), person(1)], ["en"]), circuit.start()), {}),
        "explore": ((model, records), {}),
        "SavedRun.kinds": ((saved := SavedRun(leakage({"en": [1.0]})),), {}),
        "SavedRun.outcomes": ((saved,), {}),
        "SavedRun.records": ((saved,), {}),
        "SavedRun.shares": ((saved,), {}),
        "saved_code": ((saved.start(),), {}),
        "with_attacks": ((probes, "en"), {}),
        "export_model": (("demo", chosen, tmp_path / "new"), {}),
        "base_knowledge": ((model,), {}),
        "attribute_neurons": ((model, probes), {}),
        "invent_controls": ((records, 2), {}),
        "locate_privacy_neurons": ((model, probes), {}),
        "LeakageResult.any_wording": ((leakage({"en": [1.0]}),), {}),
        "LeakageResult.by_wording": ((leakage({"en": [1.0]}),), {}),
        "LeakageResult.matrix": ((leakage({"en": [1.0]}),), {}),
        "measure_leakage": ((model, probes), {}),
        "LensResult.depths": ((lens(),), {}),
        "LensResult.summary": ((lens(),), {}),
        "logit_lens": ((model, probes), {}),
        "learn_gates": ((model, probes), {}),
        "load_model": (("demo",), {}),
        "PatchingResult.effect_summary": ((patching(),), {}),
        "PatchingResult.peaks": ((patching(),), {}),
        "PatchingResult.summary": ((patching(),), {}),
        "patch_languages": ((model, pairs), {}),
        "neutral_nll": ((model,), {"languages": ["en"]}),
        "patched_answer": ((model, pairs[0]), {"layer": 0}),
        "patch_positions": ((model, pairs[0]), {}),
        "plant": (("demo", records, tmp_path / "new"), {}),
        "ProbeSet.filter": ((probes,), {}),
        "ProbeSet.spread_facts": ((probes,), {}),
        "lape": ((model,), {"languages": ["en", "fr"]}),
        "build_probes": ((records,), {}),
        "check_records": ((records_file,), {}),
        "recovery_attacks": ((model, probes, chosen), {}),
        "Sampling.uniform": ((xlmech.Sampling(),), {"n_steps": 1}),
        "SimilarityResult.shared_layers": ((similarity(),), {}),
        "representation_similarity": ((model, probes), {}),
        "synthesize_records": ((), {}),
        "trace_record": ((model, person(0)), {"counterfactual": person(1)}),
        "train_tuned_lens": ((model,), {}),
        "figures.depths": ((lens(),), {}),
        "figures.lens_positions": (
            (replace(lens(), positions="all", readings=lens().readings.assign(position=0)),),
            {},
        ),
        "figures.neuron_activations": ((fires,), {}),
        "figures.patching": ((patching(),), {}),
        "figures.patching_positions": ((sweep(),), {}),
    }


class Ran(BaseException):
    """The model was run."""


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise Ran

    for kind in (BridgeBackend, HookedBackend):
        monkeypatch.setattr(kind, "hidden", run)


def test_choices_are_found() -> None:
    found = {(case.function, case.parameter) for case in CASES}
    assert {
        ("measure_leakage", "measures"), ("ProbeSet.filter", "group"), ("ablate", "mode"), ("dose_response", "neutral"),
        ("figures.patching", "reading"), ("synthesize_records", "groups"), ("build_probes", "templates"),
    } <= found  # fmt: skip
    assert len(CASES) > 70


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_strange_choice_is_refused_before_the_model_runs(
    case: Case, arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]], resting: None
) -> None:
    assert case.function in arguments, f"give {case.function} arguments here, so that its choices are tested"
    function, (given, named) = dict(public_functions())[case.function], arguments[case.function]
    with pytest.raises(ValueError, match=case.message):
        found = function(*given, **named | {case.parameter: case.value})
        if isinstance(found, typing.ContextManager):
            with found:
                pass


def test_what_the_caller_reads() -> None:
    check_choice("measure", "exposure", Literal["extraction", "exposure"])
    assert check_choices("measure", iter(["a", "b"]), ("a", "b", "c")) == ("a", "b")
    assert check_list("subject", {"Ana Li": 1}) == ("Ana Li",)
    with pytest.raises(
        ValueError,
        match=r"^unknown measure 'Extractoin' \(did you mean 'extraction'\?\); use 'extraction', 'exposure'$",
    ):
        check_choices("measure", ("Extractoin",), Literal["extraction", "exposure"])
    with pytest.raises(ValueError, match="^unknown set 'zzz'; use none$"):
        check_choice("set", "zzz", ())
    with pytest.raises(ValueError, match=r"^expected a list of measures, got 'rank' alone; give a list: \['rank'\]$"):
        check_choices("measure", "rank", ("rank",))
    with pytest.raises(
        ValueError, match=r"^expected a list of subjects, got one subject alone; give a list: \[subject\]$"
    ):
        check_list("subject", "Ana Li")
