"""Neuron sets and the rules that choose them, on scores whose answer is known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.neurons.neuron_set import (
    NeuronSet,
    PrivacyNeurons,
    candidates,
    chosen_frame,
    overlap,
    select_specific,
    select_universal,
)
from xlmech.storage.result import Provenance

LAYERS, WIDTH = 3, 8
QUICK = settings(max_examples=60, deadline=None)
pairs = st.frozensets(st.tuples(st.integers(0, LAYERS - 1), st.integers(0, WIDTH - 1)))


def of(*neurons: tuple[int, int], model: str = "tiny") -> NeuronSet:
    return NeuronSet(frozenset(neurons), LAYERS, WIDTH, model)


# Sets


@QUICK
@given(pairs, pairs)
def test_algebra_is_that_of_sets(one: frozenset[tuple[int, int]], two: frozenset[tuple[int, int]]) -> None:
    a, b = of(*one), of(*two)
    assert (a | b, a & b, a - b) == (of(*one | two), of(*one & two), of(*one - two))
    assert (len(a), list(a), a.share) == (len(one), sorted(one), len(one) / 24)
    assert all((neuron in a) == (neuron in one) for neuron in one | two)
    assert a | b == b | a
    assert (a - b) | (a & b) == a
    assert (a == b) == (one == two)
    assert a.by_layer() == {layer: sorted(n for m, n in one if m == layer) for layer in sorted({m for m, _ in one})}
    assert list(a.to_frame().itertuples(index=False, name=None)) == sorted(one)
    assert list(a.to_frame().columns) == ["layer", "neuron"]
    assert repr(a) == f"NeuronSet({len(one)} of 24 neurons of tiny)"


@pytest.mark.parametrize("neuron", [(-1, 0), (3, 0), (0, -1), (0, 8)])
def test_neuron_outside_the_model(neuron: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"neuron \({neuron[0]}, {neuron[1]}\) is outside 3 layers of 8 neurons"):
        of((0, 0), neuron)


@pytest.mark.parametrize("operator", ["__or__", "__and__", "__sub__"])
@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (of(model="b"), "b', 3, 8"),
        (NeuronSet(frozenset(), 4, 8, "tiny"), "tiny', 4, 8"),
        (NeuronSet(frozenset(), 3, 9, "tiny"), "3, 9"),
    ],
)
def test_sets_of_different_models_do_not_mix(operator: str, other: NeuronSet, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"different models: \('tiny', 3, 8\) and .*{shown}\) \(model, layers"):
        getattr(of((0, 1)), operator)(other)


def test_set_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="neurons"):
        of().neurons = frozenset()  # type: ignore[misc]


@QUICK
@given(pairs, st.text(max_size=5))
def test_set_round_trip(
    tmp_path_factory: pytest.TempPathFactory, neurons: frozenset[tuple[int, int]], model: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "set.json"
    of(*neurons, model=model).save(path)
    assert NeuronSet.load(str(path)) == of(*neurons, model=model)
    assert not list(path.parent.glob(".set.json*"))
    if neurons and model.isprintable():
        of(*neurons, model=model).save(path.with_suffix(".csv"))
        assert NeuronSet.load(path.with_suffix(".csv")) == of(*neurons, model=model)


def test_a_set_as_csv_is_a_tidy_table(tmp_path: Path) -> None:
    of((0, 1), (2, 7)).save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == [
        "layer,neuron,n_layers,d_mlp,model",
        "0,1,3,8,tiny",
        "2,7,3,8,tiny",
    ]
    with pytest.raises(ValueError, match=r"a\.csv: a CSV of no neurons cannot tell the model's shape; use \.json"):
        of().save(tmp_path / "a.csv")
    two_models = "layer,neuron,n_layers,d_mlp,model\n0,1,3,8,a\n0,1,3,8,b\n"
    for text in (two_models, "layer,neuron\n0,1\n", "layer,neuron,n_layers,d_mlp,model\n"):
        (tmp_path / "b.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"b\.csv: not a neuron set"):
            NeuronSet.load(tmp_path / "b.csv")


GOOD = {"kind": "neurons", "model": "m", "n_layers": 3, "d_mlp": 8, "neurons": [[0, 1]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "a.json: not a neuron set .*JSONDecodeError.*write one with NeuronSet.save"),
        ("[]", "a.json: not a neuron set"),
        ("3", "a.json: not a neuron set"),
        (json.dumps({"model": "m"}), r"a.json: not a neuron set \(KeyError\('neurons'\)\)"),
        (json.dumps(GOOD | {"d_mlp": "wide"}), "a.json: not a neuron set"),
        (json.dumps(GOOD | {"neurons": [[1, 2, 3]]}), "a.json: not a neuron set"),
        (json.dumps(GOOD | {"neurons": [[3, 0]]}), r"neuron \(3, 0\) is outside 3 layers of 8 neurons"),
    ],
)
def test_load_refuses_what_is_no_set(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        NeuronSet.load(tmp_path / "a.json")


# Choosing: three languages, two layers of three neurons

SCORES = torch.tensor(
    [
        [[0.9, 0.1, 0.5], [0.0, 0.8, 0.3]],
        [[0.2, 0.7, 0.5], [0.0, 0.9, 0.3]],
        [[0.3, 0.1, 0.4], [0.6, 0.7, -0.1]],
    ]
)
NONE = torch.zeros_like(SCORES, dtype=torch.bool)


def rounded(found: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return [(layer, neuron, round(score, 4)) for layer, neuron, score in found]


def test_candidates_are_the_top_by_mean_or_share() -> None:
    share = torch.zeros_like(SCORES)
    top = candidates(SCORES, share, n_neurons=2, min_share=0.5)
    assert [[tuple(place) for place in language.nonzero().tolist()] for language in top] == [
        [(0, 0), (1, 1)],
        [(0, 1), (1, 1)],
        [(1, 0), (1, 1)],
    ]
    share[2, 0, 1], share[0, 0, 2] = 0.5, 0.49
    more = candidates(SCORES, share, n_neurons=2, min_share=0.5)
    assert (more & ~top).nonzero().tolist() == [[2, 0, 1]]
    assert candidates(SCORES, share, n_neurons=0, min_share=0.5).nonzero().tolist() == [[2, 0, 1]]
    assert candidates(SCORES, share, n_neurons=99, min_share=1.1).equal(SCORES > 0)


def test_what_public_facts_take_from_mean_and_share_makes_no_candidate() -> None:
    """Neither a share without a positive mean, nor what is not a number, which would rank first."""
    share = torch.ones_like(SCORES)
    assert not candidates(SCORES - 1, share, n_neurons=2, min_share=0.5).any()
    failed = SCORES.clone()
    failed[1] = math.nan
    found = candidates(failed, torch.zeros_like(SCORES), n_neurons=2, min_share=0.5)
    assert found[0].sum() == 2 and not found[1].any()
    lowest = failed.amin(0)
    assert lowest.isnan().all() and select_universal(failed, rule="min", n_neurons=3, is_candidate=NONE) == []
    failed[1, 0, 0] = 0.9
    assert rounded(select_universal(failed, rule="min", n_neurons=3, is_candidate=NONE)) == [(0, 0, 0.3)]


@pytest.mark.parametrize(
    ("n_neurons", "chosen"),
    [
        (1, [(1, 1, 0.7)]),
        (3, [(1, 1, 0.7), (0, 2, 0.4), (0, 0, 0.2)]),
        (99, [(1, 1, 0.7), (0, 2, 0.4), (0, 0, 0.2), (0, 1, 0.1)]),
        (0, []),
    ],
)
def test_universal_by_the_minimum(n_neurons: int, chosen: list[tuple[int, int, float]]) -> None:
    assert rounded(select_universal(SCORES, rule="min", n_neurons=n_neurons, is_candidate=NONE)) == chosen


def test_universal_by_intersection() -> None:
    is_candidate = NONE.clone()
    is_candidate[:, 0, 0] = is_candidate[:, 0, 2] = is_candidate[:2, 1, 1] = is_candidate[:, 1, 2] = True
    found = select_universal(SCORES, rule="intersection", n_neurons=9, is_candidate=is_candidate)
    assert rounded(found) == [(0, 0, 0.4667), (0, 2, 0.4667), (1, 2, 0.1667)]
    assert rounded(select_universal(SCORES, rule="intersection", n_neurons=9, is_candidate=NONE)) == []
    with_middle = is_candidate | (torch.arange(3)[:, None, None] == 2) & (SCORES == 0.7)
    best = select_universal(SCORES, rule="intersection", n_neurons=1, is_candidate=with_middle)
    assert rounded(best) == [(1, 1, 0.8)]


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="unknown rule 'max'; use 'min', 'intersection' or 'entropy'"):
        select_universal(SCORES, rule="max", n_neurons=1, is_candidate=NONE)  # type: ignore[arg-type]


def test_specific_neurons_are_nobody_elses_candidates() -> None:
    is_candidate = candidates(SCORES, torch.zeros_like(SCORES), n_neurons=3, min_share=0.5)
    # candidates: (0,0) (0,2) (1,1) | (0,1) (0,2) (1,1) | (0,2) (1,0) (1,1)
    found = [rounded(select_specific(SCORES, n, n_neurons=9, is_candidate=is_candidate)) for n in range(3)]
    assert found == [[(0, 0, 0.9)], [(0, 1, 0.7)], [(1, 0, 0.6)]]
    only_first = NONE.clone()
    only_first[0] = True
    ordered = [(0, 0, 0.9), (1, 1, 0.8), (0, 2, 0.5), (1, 2, 0.3), (0, 1, 0.1)]
    assert rounded(select_specific(SCORES, 0, n_neurons=9, is_candidate=only_first)) == ordered
    assert rounded(select_specific(SCORES, 0, n_neurons=2, is_candidate=only_first)) == ordered[:2]
    assert select_specific(SCORES, 1, n_neurons=9, is_candidate=only_first) == []


def test_specific_neurons_by_entropy() -> None:
    """A neuron mostly of one language is its own though another has it as a candidate; shared ones are nobody's."""
    scores = torch.tensor([
        [[0.9, 0.5, -0.1, 0.3, 0.0]],
        [[0.1, 0.5, 0.4, -0.3, 0.0]],
    ])  # fmt: skip
    everybody = torch.ones_like(scores, dtype=torch.bool)
    options: dict[str, Any] = {"n_neurons": 9, "is_candidate": everybody, "rule": "entropy"}
    assert [rounded(select_specific(scores, n, **options)) for n in range(2)] == [
        [(0, 0, 0.9), (0, 3, 0.3)],
        [(0, 2, 0.4)],
    ]
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    for bound, found in ((entropy - 1e-6, [(0, 3, 0.3)]), (entropy + 1e-6, [(0, 0, 0.9), (0, 3, 0.3)])):
        assert rounded(select_specific(scores, 0, **options, max_entropy=bound)) == found
    both = rounded(select_specific(scores, 0, **options, max_entropy=math.log(2) + 1e-6))
    assert both == [(0, 0, 0.9), (0, 1, 0.5), (0, 3, 0.3)], "a tie is the first language's"
    assert rounded(select_specific(scores, 0, **options | {"n_neurons": 1})) == [(0, 0, 0.9)]
    assert select_specific(scores, 0, **options | {"is_candidate": ~everybody}) == []
    plain = [select_specific(scores, n, **options | {"rule": "min"}) for n in range(2)]
    assert plain == [[], []], "by the other rules, candidates of both are nobody's"
    universal = select_universal(SCORES, rule="entropy", n_neurons=3, is_candidate=NONE)
    assert universal == select_universal(SCORES, rule="min", n_neurons=3, is_candidate=NONE)


# The result


def privacy_neurons(**changes: Any) -> PrivacyNeurons:
    rows = [("universal", "", [(1, 1, 0.7), (0, 2, 0.4)]), ("specific", "fr", []), ("specific", "zh", [(1, 0, 0.6)])]
    options: dict[str, Any] = {
        "languages": ("fr", "zh"),
        "scores": SCORES[:2],
        "chosen": chosen_frame(rows),
        "rule": "min",
    }
    return PrivacyNeurons(**options | {"model": "tiny", "provenance": Provenance(model="tiny")} | changes)


def test_privacy_neurons() -> None:
    found = privacy_neurons()
    assert found.universal == NeuronSet(frozenset({(1, 1), (0, 2)}), 2, 3, "tiny")
    assert found.specific == {
        "fr": NeuronSet(frozenset(), 2, 3, "tiny"),
        "zh": NeuronSet(frozenset({(1, 0)}), 2, 3, "tiny"),
    }
    assert list(found.to_frame().itertuples(index=False, name=None)) == [
        ("universal", "", 1, 1, 0.7),
        ("universal", "", 0, 2, 0.4),
        ("specific", "zh", 1, 0, 0.6),
    ]
    assert repr(found) == "PrivacyNeurons(2 universal; specific: fr 0, zh 1)"
    assert len(privacy_neurons(chosen=chosen_frame([])).universal) == 0


def test_overlap() -> None:
    sets = {"a": of((0, 1), (1, 2)), "b": of((1, 2), (2, 3), (2, 4)), "c": of(), "d": of()}
    found = overlap(sets)
    assert list(found.index) == list(found.columns) == ["a", "b", "c", "d"]
    assert found.loc["a"].tolist() == [1, 0.25, 0, 0]
    assert (found.T.fillna(-1) == found.fillna(-1)).all(axis=None)
    assert math.isnan(found.loc["c", "d"])
    assert math.isnan(found.loc["c", "c"])
    with pytest.raises(ValueError, match="neuron sets of different models"):
        overlap({"a": of(), "b": of(model="other")})
