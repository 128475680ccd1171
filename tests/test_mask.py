"""The learned mask: its gradient, its identity with ablation, and neurons put there by hand that stand in for each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import D_MLP, N_LAYERS, KeepFloat64, tiny

from xlmech.ablation import ablate
from xlmech.answers import sequence_nll
from xlmech.backends import backend_of
from xlmech.mask import (
    LearnedMask,
    _growing,
    _loss_and_gradient,
    _nats_per_token,
    _switching,
    answer_log_odds,
    learn_mask,
)
from xlmech.models import load_model
from xlmech.neurons import NeuronSet
from xlmech.probes import ProbeSet, build_probes
from xlmech.records import Record

BATCH = [([2, 7, 8, 9], [5, 6]), ([2, 11], [12, 13, 14]), ([2, 20, 21, 22, 23], [24])]
TEXTS = [[2, 7, 8, 9, 30, 31], [2, 11, 12]]
TWINS = ((0, 40), (1, 17))


@pytest.fixture(scope="module")
def twins_model(tokenizer: Any) -> Any:
    """Either of two neurons alone makes the first token of every private id certain."""
    network = tiny("gpt2", scale=1.0).double()
    with torch.no_grad():
        token = tokenizer("X", add_special_tokens=False).input_ids[0]
        for layer, index in TWINS:
            mlp = network.transformer.h[layer].mlp
            mlp.c_fc.weight[:, index] = 0
            mlp.c_fc.bias[index] = 5.0
            mlp.c_proj.weight[index] = 0.8 * network.lm_head.weight[token] / network.lm_head.weight[token].norm()
        network.lm_head.weight.mul_(20)
    return load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


def _log_odds(backend: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return answer_log_odds(backend, batch)


def test_log_odds_of_a_padded_batch_equal_each_answer_alone(model: Any) -> None:
    backend = backend_of(model)
    found = _log_odds(backend, BATCH)
    for row, (prompt, answer) in enumerate(BATCH):
        log_probs = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0].log_softmax(-1)
        p = torch.stack([log_probs[len(prompt) - 1 + at, token] for at, token in enumerate(answer)]).sum().exp()
        assert float(found[row]) == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-3)


def test_log_odds_of_a_certain_answer_are_finite(twins_model: Any, tokenizer: Any) -> None:
    certain = [([2, 7, 8], tokenizer("X", add_special_tokens=False).input_ids)]
    assert 4 < float(_log_odds(backend_of(twins_model), certain)) < 10


@pytest.mark.parametrize("kind", ["answers", "text"])
def test_the_gradient_by_the_switches_is_right(model: Any, kind: str) -> None:
    backend = backend_of(model)

    def loss() -> torch.Tensor:
        return answer_log_odds(backend, BATCH).sum() if kind == "answers" else _nats_per_token(backend, TEXTS)

    off = torch.zeros(N_LAYERS, D_MLP, dtype=torch.float64)
    off[1, 3] = off[2, 7] = 1
    with KeepFloat64():
        _, gradient = _loss_and_gradient(backend, loss, off)
        for place in ((0, 0), (1, 3), (2, 7), (2, 20)):
            step = torch.zeros_like(off)
            step[place] = 1e-5
            up, _ = _loss_and_gradient(backend, loss, off + step)
            down, _ = _loss_and_gradient(backend, loss, off - step)
            assert float(gradient[place]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_nats_per_token_are_those_of_answers(model: Any) -> None:
    totals, counts = sequence_nll(backend_of(model), TEXTS)
    assert float(_nats_per_token(backend_of(model), TEXTS)) == pytest.approx(float(totals.sum()) / sum(counts))


def test_switching_off_is_ablation(model: Any) -> None:
    backend = backend_of(model)
    neurons = NeuronSet(frozenset({(0, 1), (1, 3), (2, 7)}), N_LAYERS, D_MLP)
    off = torch.zeros(N_LAYERS, D_MLP, dtype=torch.float64)
    for layer, index in neurons:
        off[layer, index] = 1
    with backend.hooks(_switching(backend, off)):
        found = answer_log_odds(backend, BATCH)
    with ablate(model, neurons):
        torch.testing.assert_close(found, answer_log_odds(backend, BATCH))
    assert not torch.allclose(found, answer_log_odds(backend, BATCH))


def _sides(records: tuple[Record, ...]) -> tuple[ProbeSet, ProbeSet]:
    probes = build_probes(records, ["en", "fr"], templates=[0])
    ids = probes.filter(attributes=["id_number"], group="private")
    return ids, probes.filter(attributes=["birth_country"])


def test_neurons_that_stand_in_for_each_other_are_both_found(twins_model: Any, records: tuple[Record, ...]) -> None:
    ids, others = _sides(records)
    options: dict[str, Any] = {"steps": 12, "batch_size": 4, "max_answer_tokens": 1, "progress": False}
    mask = learn_mask(twins_model, ids, keep=others, count=2, **options)
    assert mask.neurons().neurons == set(TWINS)
    backend = backend_of(twins_model)
    token = backend.tokenizer("X", add_special_tokens=False).input_ids
    for kept in TWINS:
        alone = NeuronSet(frozenset({kept}), N_LAYERS, D_MLP)
        with ablate(twins_model, alone):
            assert float(_log_odds(backend, [([2, 7, 8], token)])) > 3  # one of the two is not enough
    with ablate(twins_model, mask.neurons()):
        assert float(_log_odds(backend, [([2, 7, 8], token)])) < 0


def test_result_is_saved_and_depends_on_the_seed_alone(
    twins_model: Any, records: tuple[Record, ...], tmp_path: Path
) -> None:
    ids, others = _sides(records)
    options: dict[str, Any] = {"steps": 4, "batch_size": 2, "count": 5, "progress": False}
    one, two = (learn_mask(twins_model, ids, keep=others, **options) for _ in range(2))
    torch.testing.assert_close(one.scores, two.scores)
    other = learn_mask(twins_model, ids, keep=others, seed=1, **options)
    texts = learn_mask(twins_model, ids, keep=others, neutral=["a b", "c"], **options)
    assert list(texts.history.columns) == ["step", "suppress", "keep", "neutral"]
    assert not torch.allclose(texts.scores, one.scores)
    assert not torch.allclose(one.scores, other.scores)
    assert list(one.history.columns) == ["step", "suppress", "keep"] and len(one.history) == 4
    frame = one.to_frame()
    assert frame.score.is_monotonic_decreasing and len(frame) == len(one.neurons()) <= 5
    assert len(one.neurons(2)) == 2 and one.neurons(2).neurons <= one.neurons().neurons
    one.save(tmp_path / "mask")
    again = LearnedMask.load(tmp_path / "mask")
    torch.testing.assert_close(again.scores, one.scores)
    assert again.neurons() == one.neurons()


def test_the_model_is_left_as_it_was(twins_model: Any, records: tuple[Record, ...]) -> None:
    ids, others = _sides(records)
    before = answer_log_odds(backend_of(twins_model), BATCH)
    learn_mask(twins_model, ids, keep=others, steps=2, count=3, progress=False)
    torch.testing.assert_close(answer_log_odds(backend_of(twins_model), BATCH), before, rtol=0, atol=0)


def test_the_set_grows_to_its_size_at_half_time() -> None:
    assert [_growing(10, step, 8) for step in range(8)] == [0, 2, 5, 8, 10, 10, 10, 10]


def test_bad_input(model: Any, probes: ProbeSet) -> None:
    private, public = probes.filter(group="private"), probes.filter(group="public")
    nobody = ProbeSet(())
    with pytest.raises(ValueError, match="no probes to suppress"):
        learn_mask(model, nobody, keep=public)
    with pytest.raises(ValueError, match="no probes to keep"):
        learn_mask(model, private, keep=nobody)
    with pytest.raises(ValueError, match="both to go and to stay"):
        learn_mask(model, private, keep=probes)
    for count in (0, N_LAYERS * D_MLP + 1):
        with pytest.raises(ValueError, match="count must be between 1 and"):
            learn_mask(model, private, keep=public, count=count)
    for option in ("steps", "batch_size", "max_answer_tokens"):
        with pytest.raises(ValueError, match="at least 1"):
            learn_mask(model, private, keep=public, **{option: 0})
    for option in ("weight", "margin", "neutral_weight"):
        with pytest.raises(ValueError, match="must not be negative"):
            learn_mask(model, private, keep=public, **{option: -1.0})
