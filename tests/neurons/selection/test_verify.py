"""Neurons verified by deactivation, against plain loops, on a model that knows its answers by heart."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.models.backends import backend_of
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.leak_check import draw
from xlmech.neurons.selection.verify import VerifiedNeurons, neurons_of, verify_neurons

SHORT = ((0, 3), (0, 40), (1, 7), (1, 8), (2, 0), (2, 33), (2, 60))


def _score(model: Any, probes: ProbeSet) -> float:
    """Nats per token of the forced answers, mean over probes."""
    tokenizer, total = backend_of(model).tokenizer, 0.0
    for probe in probes:
        prompt = tokenizer(probe.prompt).input_ids
        answer = tokenizer(probe.answers[probe.query_language], add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0]
        logs = logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(answer)), answer]
        total += float(logs.mean()) / len(probes)
    return total


def _loss(model: Any, probes: ProbeSet, *neurons: tuple[int, int]) -> float:
    clean = _score(model, probes)
    with ablate(model, neurons_of(model, neurons)):
        return clean - _score(model, probes)


@pytest.fixture(scope="module")
def verified(leaking: Any, probes: ProbeSet) -> VerifiedNeurons:
    return verify_neurons(leaking, probes, neurons=neurons_of(leaking, SHORT), n_probes=4, contrast=0.5, progress=False)


def test_effects_are_those_of_ablation(leaking: Any, probes: ProbeSet) -> None:
    found = verify_neurons(leaking, probes, neurons=neurons_of(leaking, SHORT), n_probes=99, progress=False)
    private, public = probes.filter(group="private"), probes.filter(group="public")
    assert (found.n_private, found.n_public) == (len(private), len(public))
    assert {(row.layer, row.neuron) for row in found.effects.itertuples()} == set(SHORT)
    above: list[tuple[int, int]] = []
    for row in found.effects.itertuples():
        neuron = (int(row.layer), int(row.neuron))
        assert row.private == pytest.approx(_loss(leaking, private, neuron), rel=1e-4, abs=1e-7)
        assert row.public == pytest.approx(_loss(leaking, public, neuron), rel=1e-4, abs=1e-7)
        if row.kept:
            above.append(neuron)
            assert row.set_private == pytest.approx(_loss(leaking, private, *above), rel=1e-4, abs=1e-7)
            assert row.set_public == pytest.approx(_loss(leaking, public, *above), rel=1e-4, abs=1e-7)
        else:
            assert math.isnan(row.set_private) and math.isnan(row.set_public)
    assert found.kept.neurons == set(above) and found.kept.model == neurons_of(leaking, above).model


def test_what_is_kept_helps_and_what_is_not_does_not(verified: VerifiedNeurons, leaking: Any, probes: ProbeSet) -> None:
    frame = verified.effects
    assert frame.kept.tolist() == sorted(frame.kept, reverse=True), "kept ones first"
    for _, part in frame.groupby("kept"):
        worth = part.private - 0.5 * part.public
        assert worth.tolist() == sorted(worth, reverse=True), "by their own worth"
    asked = [draw(probes.filter(group=group), 4) for group in ("private", "public")]  # type: ignore[arg-type]

    def worth(*neurons: tuple[int, int]) -> float:
        private, public = (_loss(leaking, part, *neurons) for part in asked)
        return private - 0.5 * public

    assert worth(*verified.kept) >= worth(*SHORT) - 1e-9
    options: dict[str, Any] = {"n_probes": 4, "contrast": 0.5, "progress": False}
    none = verify_neurons(leaking, probes, neurons=neurons_of(leaking, SHORT), min_gain=9e9, **options)
    assert not len(none.kept) and none.effects.set_private.isna().all()


def test_a_neuron_that_does_nothing_is_dropped(leaking: Any, probes: ProbeSet) -> None:
    """One that is silent anyway; beside it one that helps, which stays."""
    backend = backend_of(leaking)
    name = backend.hook_name("mlp.hook_post", 1)

    def silence(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[..., 5] = 0
        return value

    with backend.hooks([(name, silence)]):
        private = probes.filter(group="private")
        losses = {index: _loss(leaking, private, (1, index)) for index in range(12)}
        best = max(losses, key=lambda index: losses[index])
        found = verify_neurons(leaking, private, neurons=neurons_of(leaking, [(1, 5), (1, best)]), progress=False)
    assert losses[best] > 0 and losses[5] == pytest.approx(0, abs=1e-12)
    assert found.kept.neurons == {(1, best)}


def test_neurons_that_back_each_other_up_are_kept(leaking: Any, probes: ProbeSet) -> None:
    """Two copies of one neuron, either of which suffices: neither does anything alone."""
    backend, private = backend_of(leaking), probes.filter(group="private")
    losses = {index: _loss(leaking, private, (1, index)) for index in range(12)}
    original = max(losses, key=lambda index: losses[index])
    copy = (original + 1) % 64
    intact: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> None:
        intact.append(value)

    def either(value: torch.Tensor, hook: Any) -> torch.Tensor:
        """What the original wrote is written if one of the two is not off, and the copy writes nothing of its own."""
        value, before = value.clone(), intact.pop()
        both_off = ((value[..., original] == 0) & (value[..., copy] == 0))[..., None]
        value[..., [original]] = torch.where(both_off, 0.0, before[..., [original]])
        value[..., copy] = 0
        return value

    name = backend.hook_name("mlp.hook_post", 1)
    chosen = neurons_of(leaking, [(1, original), (1, copy)])

    class Backed:
        """`ablate`, with the hooks that make the pair around its own."""

        def __init__(self, model: Any, neurons: NeuronSet) -> None:
            self.model, self.neurons = model, neurons

        def __enter__(self) -> None:
            self.outer = backend.hooks([(name, keep)])
            self.inner = ablate(self.model, self.neurons)
            self.last = backend.hooks([(name, either)])
            for one in (self.outer, self.inner, self.last):
                one.__enter__()

        def __exit__(self, *error: Any) -> None:
            for one in (self.last, self.inner, self.outer):
                one.__exit__(*error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xlmech.neurons.selection.verify.ablate", Backed)
        patch.setattr(
            "xlmech.neurons.selection.verify.exact_effects",
            lambda *_, neurons, **__: torch.zeros(len(neurons), dtype=torch.float64),
        )
        found = verify_neurons(leaking, private, neurons=chosen, progress=False)
    assert found.kept == chosen
    assert found.effects.private.tolist() == [0, 0]
    assert found.effects.set_private.tolist()[1] > 0


def test_without_public_probes(leaking: Any, probes: ProbeSet) -> None:
    private = probes.filter(group="private")
    found = verify_neurons(leaking, private, neurons=neurons_of(leaking, SHORT), n_probes=3, progress=False)
    assert (found.n_private, found.n_public) == (3, 0)
    assert found.effects.public.isna().all() and found.effects.set_public.isna().all()
    assert found.effects.private.notna().all()


def test_the_shortlist_is_cut_by_worth(leaking: Any, probes: ProbeSet, verified: VerifiedNeurons) -> None:
    found = verify_neurons(
        leaking, probes, neurons=neurons_of(leaking, SHORT), n_probes=4, contrast=0.5, n_neurons=2, progress=False
    )
    worth = (verified.effects.private - 0.5 * verified.effects.public).sort_values(ascending=False)
    best = verified.effects.loc[worth.index[:2], ["layer", "neuron"]]
    assert found.kept.neurons <= set(best.itertuples(index=False, name=None))
    assert len(found.effects) == len(SHORT)


def test_save_and_load(verified: VerifiedNeurons, tmp_path: Any) -> None:
    verified.save(tmp_path / "v")
    again = VerifiedNeurons.load(tmp_path / "v")
    pd.testing.assert_frame_equal(again.to_frame(), verified.to_frame())
    assert again.kept == verified.kept and repr(again) == repr(verified)
    assert again.headline() == {"kept": f"{len(verified.kept)} of 7 neurons help"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_neurons": 0}, "n_neurons must be 1 or more, or None for all; got 0"),
        ({"contrast": -1.0}, "contrast must be a finite number from 0 on, got -1.0"),
        ({"min_gain": math.nan}, "min_gain must be a finite number from 0 on, got nan"),
        ({"n_probes": 0}, "n_probes must be a finite number from 1 on, got 0"),
    ],
)
def test_numbers_out_of_range(leaking: Any, probes: ProbeSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_neurons(leaking, probes, neurons=neurons_of(leaking, SHORT), **options)


def test_refusals(leaking: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="no private probes to verify neurons with"):
        verify_neurons(leaking, probes.filter(group="public"), neurons=neurons_of(leaking, SHORT))
    with pytest.raises(ValueError, match="no neurons to verify: the set is empty"):
        verify_neurons(leaking, probes, neurons=neurons_of(leaking, []))
    with pytest.raises(ValueError, match="this one has"):
        verify_neurons(leaking, probes, neurons=NeuronSet(frozenset({(0, 1)}), 9, 64))
