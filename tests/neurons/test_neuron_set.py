"""Neuron sets: algebra, files and overlap."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.neurons.neuron_set import NeuronSet, overlap

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
        ("nonsense", "a.json: not a neuron set .*JSONDecodeError.*one that NeuronSet.save wrote"),
        ("[]", "a.json: not a neuron set"),
        ("3", "a.json: not a neuron set"),
        (json.dumps({"model": "m"}), r"a.json: not a neuron set \(ValidationError\)"),
        (json.dumps(GOOD | {"d_mlp": "wide"}), "a.json: not a neuron set"),
        (json.dumps(GOOD | {"neurons": [[1, 2, 3]]}), "a.json: not a neuron set"),
        (json.dumps(GOOD | {"neurons": [[3, 0]]}), r"neuron \(3, 0\) is outside 3 layers of 8 neurons"),
    ],
)
def test_load_refuses_what_is_no_set(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        NeuronSet.load(tmp_path / "a.json")


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


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    of((0, 1), (2, 7)).save(path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("[2, 7]", "[2, 6]"), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"a\.json: not what was written there, but damaged or edited; save the set again"
    ):
        NeuronSet.load(path)
    path.write_text(json.dumps(GOOD), encoding="utf-8")  # written by hand, without a hash
    assert NeuronSet.load(path) == NeuronSet(frozenset({(0, 1)}), 3, 8, "m")
