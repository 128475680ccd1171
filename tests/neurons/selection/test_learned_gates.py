"""Learned gates: their losses and gradient against plain runs, training that can be repeated and resumed, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.tiny_models import D_MLP, N_LAYERS, taught
from torch.nn.functional import softplus

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection import learned_gates
from xlmech.neurons.selection.gate_losses import GatedModel, Sample, answer_samples, encoded_answer, text_samples
from xlmech.neurons.selection.gate_training import STATE_EVERY, batch_numbers, drawn_numbers
from xlmech.neurons.selection.learned_gates import learn_gates
from xlmech.options import GateOptions
from xlmech.storage.result import Provenance

TEXTS = ("Rain fell in the night.", "The shop opens at nine.", "Un train part.", "Le pain est bon.")
FEW = GateOptions(steps=6, private_batch=4, public_batch=3, neutral_batch=2, precision="float32")
ANSWERS = [
    Sample(id="one", kind="private", tokens=(2, 7, 8, 9, 5), first=3, targets=(5, 6)),
    Sample(id="two", kind="private", tokens=(2, 11, 12, 13), first=1, targets=(12, 13, 14)),
    Sample(id="three", kind="public", tokens=(2, 20, 21, 22, 23), first=4, targets=(24,)),
]


def _weights(seed: int = 0) -> torch.Tensor:
    drawn = torch.rand(N_LAYERS, D_MLP, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn < 0.3, drawn, 0.0)


def _gates(weights: torch.Tensor) -> NeuronGates:
    return NeuronGates(factors=1 - weights, provenance=Provenance(model="m"))


def _log_probs(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]), return_type="logits")[0].double().log_softmax(-1)


def _sides(probes: ProbeSet) -> tuple[ProbeSet, ProbeSet]:
    return probes.filter(group="private"), probes.filter(group="public")


def test_losses_are_those_of_plain_runs_under_ablate(model: Any) -> None:
    """Answers by their log-odds as a whole, texts by the divergence over the whole vocabulary; padding does not count."""
    gated, weights = GatedModel(backend_of(model), FEW), _weights()
    texts = gated.with_references(text_samples(backend_of(model), TEXTS[:2]))
    losses, _ = gated.losses([*ANSWERS, *texts], weights)
    with ablate(model, _gates(weights)):
        for answer, loss in zip(ANSWERS, losses, strict=False):
            rows = _log_probs(model, answer.tokens)[answer.first :]
            log_prob = torch.stack([row[token] for row, token in zip(rows, answer.targets, strict=True)]).sum()
            z = log_prob - torch.log1p(-log_prob.exp())
            wanted = softplus((z if answer.kind == "private" else -z) + 3)
            assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
        now = [_log_probs(model, text.tokens)[text.first :] for text in texts]
    for text, after, loss in zip(texts, now, losses[3:], strict=True):
        before = _log_probs(model, text.tokens)[text.first :]
        wanted = (before.exp() * (before - after)).sum(-1).mean()
        assert float(loss) == pytest.approx(float(wanted), rel=1e-4) and wanted > 0


def test_open_gates_change_no_text(model: Any) -> None:
    gated = GatedModel(backend_of(model), FEW)
    texts = gated.with_references(text_samples(backend_of(model), TEXTS))
    losses, gradient = gated.losses(texts, torch.zeros(N_LAYERS, D_MLP))
    torch.testing.assert_close(losses, torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros(N_LAYERS, D_MLP), atol=1e-5, rtol=0)


def test_gradient_is_that_of_the_weighted_sum_of_means(model: Any) -> None:
    options = GateOptions(private_weight=1.5, public_weight=2.5, neutral_weight=30, precision="float32", batch_size=2)
    gated, weights = GatedModel(backend_of(model), options), _weights()
    batch = [*ANSWERS, *gated.with_references(text_samples(backend_of(model), TEXTS[:2]))]

    def loss(at: torch.Tensor) -> float:
        of_sample = gated.losses(batch, at)[0].double()
        return float(1.5 * of_sample[:2].mean() + 2.5 * of_sample[2] + 30 * of_sample[3:].mean())

    _, gradient = gated.losses(batch, weights)
    for place in ((0, 0), (1, 3), (2, 7)):
        step = torch.zeros_like(weights)
        step[place] = 3e-3
        slope = (loss(weights + step) - loss(weights - step)) / 6e-3
        assert float(gradient[place]) == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_each_sample_comes_once_a_round() -> None:
    rounds = [number for step in range(6) for number in batch_numbers(4, 2, step, (0, 1))]
    assert all(sorted(rounds[start : start + 4]) == [0, 1, 2, 3] for start in (0, 4, 8))
    assert rounds[:4] != rounds[4:8] or rounds[4:8] != rounds[8:]
    assert batch_numbers(3, 10, 5, (0,)) != [] and sorted(batch_numbers(3, 10, 5, (0,))) == [0, 1, 2]
    assert batch_numbers(0, 5, 2, (0,)) == []


def test_private_answers_go_and_what_is_kept_stays(leaking: Any, probes: ProbeSet) -> None:
    suppress, keep = _sides(probes)
    options = GateOptions(steps=40, neutral_weight=0, public_weight=4, precision="float32")
    gates = learn_gates(leaking, suppress, keep=keep, neutral=TEXTS, options=options, progress=False)
    assert list(gates.history.columns) == ["step", "private", "public", "kl", "n_touched", "reduction"]
    assert gates.counts == {"private": 12, "public": 4, "texts": 4} and gates.reduction != gates.reduction
    assert 0 < gates.n_touched < N_LAYERS * D_MLP and gates.n_touched == gates.history.n_touched.iloc[-1]
    free = learn_gates(
        leaking, suppress, neutral=(), options=options.updated(public_weight=0.0), progress=False
    )  # fmt: skip
    assert free.history.kl.isna().all() and free.history.public.isna().all()
    losses = {}
    for name, of_name in {"none": _gates(torch.zeros(N_LAYERS, D_MLP)), "kept": gates, "free": free}.items():
        sides = []
        for side, kind in ((suppress, "private"), (keep, "public")):
            items = [encoded_answer(backend_of(leaking), probe, "", 4) for probe in side]
            samples = [sample for item in items for sample in answer_samples(item, kind)]  # type: ignore[arg-type]
            sides.append(float(GatedModel(backend_of(leaking), FEW).losses(samples, 1 - of_name.factors)[0].mean()))
        losses[name] = sides
    assert losses["free"][0] < losses["kept"][0] < losses["none"][0] - 0.5
    assert losses["none"][1] - 0.1 < losses["kept"][1] < losses["free"][1] - 0.1


def test_training_is_repeated_exactly_and_depends_on_the_seed(leaking: Any, probes: ProbeSet) -> None:
    suppress, keep = _sides(probes)
    first, again, other = (
        learn_gates(leaking, suppress, keep=keep, neutral=TEXTS, options=FEW.updated(seed=seed), progress=False)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.factors, again.factors)
    pd.testing.assert_frame_equal(first.history, again.history)
    assert not torch.equal(first.factors, other.factors)


def test_an_interrupted_training_goes_on(
    leaking: Any, probes: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress, keep = _sides(probes)
    arguments: dict[str, Any] = {"keep": keep, "neutral": TEXTS, "options": FEW, "progress": False}
    whole = learn_gates(leaking, suppress, **arguments)
    run, n_runs = GatedModel.losses, 0

    def interrupted(*given: Any) -> Any:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 4:
            raise KeyboardInterrupt
        return run(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GatedModel, "losses", interrupted)
        learn_gates(leaking, suppress, checkpoint=tmp_path, **arguments)
    n_runs = 10
    monkeypatch.setattr(GatedModel, "losses", interrupted)
    resumed = learn_gates(leaking, suppress, checkpoint=tmp_path, **arguments)
    assert n_runs == 10 + 3
    assert torch.equal(resumed.factors, whole.factors)
    pd.testing.assert_frame_equal(resumed.history, whole.history)
    learn_gates(leaking, suppress, checkpoint=tmp_path, **arguments)
    assert n_runs == 10 + 3  # finished before
    with pytest.raises(ValueError, match="gates in training with other options"):
        learn_gates(leaking, suppress, checkpoint=tmp_path, **arguments | {"options": FEW.updated(seed=3)})


def test_a_support_is_all_that_moves(leaking: Any, probes: ProbeSet) -> None:
    suppress, keep = _sides(probes)
    options = FEW.updated(steps=15)
    gates = learn_gates(leaking, suppress, keep=keep, neutral=TEXTS, options=options, progress=False)
    top = gates.top(20)
    again = learn_gates(
        leaking, suppress, keep=keep, neutral=TEXTS, start=top, support=top.neurons(0), progress=False,
        options=options.updated(pull=0.0),
    )  # fmt: skip
    assert set(again.to_frame()[["layer", "neuron"]].itertuples(index=False, name=None)) <= top.neurons(0).neurons
    assert not torch.equal(again.factors, top.factors)
    assert again.options["pull"] == 0 and again.n_touched <= 20


def test_it_stops_at_the_target_and_holds_a_third_back(leaking: Any, probes: ProbeSet) -> None:
    suppress, keep = _sides(probes)
    options = GateOptions(steps=200, learning_rate=0.1, target_reduction=0.5, precision="float32")
    gates = learn_gates(leaking, suppress, neutral=(), options=options, progress=False)
    measured = gates.history.reduction.dropna()
    assert gates.reduction == measured.max() >= 0.5
    assert len(gates.history) % STATE_EVERY == 0 and (measured.iloc[:-1] < 0.5).all()
    assert gates.counts["private"] == 8  # four of six facts
    with pytest.warns(UserWarning, match="target reduction of 100% was not reached: the best gates reduce"):
        gates = learn_gates(
            leaking,
            suppress,
            keep=keep,
            neutral=TEXTS,
            options=FEW.updated(steps=2, target_reduction=1.0),
            progress=False,
        )
    assert gates.reduction < 1 and len(gates.history) == 2


def test_the_model_is_left_as_it_was(leaking: Any, probes: ProbeSet) -> None:
    suppress, keep = _sides(probes)
    before = _log_probs(leaking, ANSWERS[0].tokens)
    state = [(weight.requires_grad, weight.grad) for weight in leaking.parameters()]
    learn_gates(leaking, suppress, keep=keep, neutral=TEXTS, options=FEW.updated(steps=2), progress=False)
    assert torch.equal(_log_probs(leaking, ANSWERS[0].tokens), before)
    assert not any(point.fwd_hooks for point in leaking.hook_dict.values())
    for weight, (is_trained, gradient) in zip(leaking.parameters(), state, strict=True):
        assert weight.requires_grad == is_trained and weight.grad is gradient


def test_half_the_memory_changes_nothing_but_rounding(
    leaking: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress, keep = _sides(probes)
    arguments: dict[str, Any] = {"keep": keep, "neutral": TEXTS, "options": FEW, "progress": False}
    whole, run, sizes = learn_gates(leaking, suppress, **arguments), GatedModel._states, []

    def states(self: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return run(self, batch)

    monkeypatch.setattr(GatedModel, "_states", states)
    halved = learn_gates(leaking, suppress, **arguments)
    torch.testing.assert_close(halved.factors, whole.factors, rtol=0, atol=2e-3)
    assert sum(size > 3 for size in sizes) <= 4  # what does not fit is not tried at every step


def test_bad_input(model: Any, leaking: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    suppress, keep = _sides(probes)
    options: dict[str, Any] = {"neutral": TEXTS, "progress": False, "options": FEW}
    with pytest.raises(ValueError, match="no probes to suppress"):
        learn_gates(model, ProbeSet(()), **options)
    with pytest.raises(ValueError, match="of one person alone"):
        learn_gates(model, suppress.filter(subjects=suppress.subjects[:1]), **options)
    with pytest.raises(ValueError, match="12 probes are both to suppress and to keep, e.g. private-0"):
        learn_gates(model, suppress, keep=probes, **options)
    with pytest.raises(ValueError, match="the model gives none of the 12 answers to suppress"):
        learn_gates(model, suppress, **options)
    with pytest.raises(ValueError, match="neutral text 1 has 1 tokens, and at least 3 are needed"):
        learn_gates(model, suppress, **options | {"neutral": ["Rain fell.", "a"]})
    with pytest.raises(ValueError, match="expected a list of neutral texts"):
        learn_gates(model, suppress, **options | {"neutral": "Rain fell."})
    other = NeuronGates(factors=torch.ones(2, 5), provenance=Provenance(model="other"))
    with pytest.raises(ValueError, match=r"gates of a model with \(layers, neurons per layer\) \(2, 5\); this one has"):
        learn_gates(leaking, suppress, start=other, **options)
    with pytest.raises(ValueError, match="neurons of a model with"):
        learn_gates(leaking, suppress, support=NeuronSet(frozenset({(0, 0)}), 2, 5), **options)
    with pytest.raises(ValueError, match="support has no neurons"):
        learn_gates(leaking, suppress, support=NeuronSet(frozenset(), N_LAYERS, D_MLP), **options)
    one_fact = suppress.filter(attributes=["id_number"], subjects=suppress.subjects[:2])
    with pytest.raises(ValueError, match="the model knows 2 of the facts to suppress, and a third is to be held back"):
        learn_gates(leaking, one_fact, **options | {"options": FEW.updated(target_reduction=0.9)})
    with pytest.warns(UserWarning, match="gives none of the 2 answers to keep"):
        learn_gates(leaking, suppress, keep=probes.filter(group="control", languages=["en"]), **options)
    for name in ("steps", "private_batch", "max_answer_tokens"):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            GateOptions(**{name: 0})

    def infinite(self: Any, batch: Any, weights: Any) -> Any:
        return torch.full((len(batch),), torch.nan), torch.zeros_like(weights)

    monkeypatch.setattr(GatedModel, "losses", infinite)
    with pytest.raises(ValueError, match=r"step 0: the loss of private-\d-\w+/\w\w/0 is not finite"):
        learn_gates(leaking, suppress, **options)


def test_nothing_extracted_of_what_is_held_back(
    leaking: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_gates, "_n_extracted", lambda *_: 0)
    with pytest.raises(ValueError, match="answers held back is extracted"):
        learn_gates(
            leaking,
            probes.filter(group="private"),
            neutral=TEXTS,
            options=FEW.updated(target_reduction=0.5),
            progress=False,
        )


def test_texts_default_to_those_that_do_not_judge(leaking: Any, probes: ProbeSet) -> None:
    gates = learn_gates(leaking, probes.filter(group="private"), options=FEW.updated(steps=1), progress=False)
    assert gates.counts["texts"] >= 100 and gates.history.public.isna().all()


def test_bfloat16_products_lead_the_same_way(tokenizer: Any, records: tuple[Record, ...]) -> None:
    """A float32 model: the losses of the two precisions are close, and gates that leave texts alone change them by little."""
    probes = build_probes(records, ["en"], templates=[0])
    known = probes.filter(group="private") + probes.filter(group="public")
    model = load_model(taught(tokenizer, known), tokenizer=tokenizer, backend="bridge")
    suppress, keep = _sides(probes)
    exact, rough = (
        learn_gates(
            model,
            suppress,
            keep=keep,
            neutral=TEXTS,
            options=FEW.updated(steps=20, precision=precision),
            progress=False,
        )
        for precision in ("float32", "bfloat16")
    )
    assert abs(exact.history.private - rough.history.private).max() < 0.2
    assert rough.history.kl.iloc[0] < 1e-4
    cosine = torch.nn.functional.cosine_similarity((1 - exact.factors).flatten(), (1 - rough.factors).flatten(), dim=0)
    assert cosine > 0.7


def test_answers_of_large_loss_come_more_often() -> None:
    last = torch.tensor([1e-4, 1e-4, 5.0, 0.01, float("nan"), 1e-4])
    drawn = [drawn_numbers(last, 4, step, (0, 1), 0.5) for step in range(60)]
    assert all(len(set(of_step)) == 4 for of_step in drawn)
    counts = [sum(number in of_step for of_step in drawn) for number in range(6)]
    assert counts[2] > 45 and counts[4] > 45 and max(counts[0], counts[1], counts[5]) < 30
    assert min(counts) >= 20  # two in turn per step, of six
    assert drawn_numbers(last, 4, 3, (0, 1), 0.0) == batch_numbers(6, 4, 3, (0, 1))
    assert sorted(drawn_numbers(last + 1, 9, 3, (0, 1), 0.5)) == list(range(6))
    below_zero = torch.tensor([-1e-6, 2.0, 2.0, 2.0])  # as a rounded divergence may be
    assert all(len(drawn_numbers(below_zero, 2, step, (0, 1), 0.5)) == 2 for step in range(8))
    assert drawn_numbers(torch.zeros(0), 4, 0, (0,), 0.5) == []


def test_kept_answers_are_whole_and_suppressed_ones_are_cut(
    leaking: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress, keep = _sides(probes)
    lengths: dict[str, set[int]] = {"private": set(), "public": set()}
    run = GatedModel.losses

    def seen(self: Any, samples: Any, weights: Any) -> Any:
        for sample in samples:
            if sample.kind in lengths:
                lengths[sample.kind].add(len(sample.targets))
        return run(self, samples, weights)

    monkeypatch.setattr(GatedModel, "losses", seen)
    options = FEW.updated(max_answer_tokens=1)
    learn_gates(leaking, suppress, keep=keep, neutral=TEXTS, options=options, progress=False)
    assert lengths["private"] == {1}
    assert max(lengths["public"]) > 1
