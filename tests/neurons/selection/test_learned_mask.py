"""The learned mask: its gradient, its identity with ablation, and neurons put there by hand that stand in for each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import D_MLP, N_LAYERS, KeepFloat64, tiny
from torch.nn.functional import softplus

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.score import sequence_nll
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.gates import LossTerm, answer_log_odds, best_set, nats_per_token, run_gated
from xlmech.neurons.selection.learned_mask import LearnedMask, learn_mask
from xlmech.options import MaskOptions

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


def _value(function: Any, model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return function(backend_of(model), batch)  # type: ignore[no-any-return]


def test_log_odds_of_a_padded_batch_equal_each_answer_alone(model: Any) -> None:
    found = _value(answer_log_odds, model, BATCH)
    for row, (prompt, answer) in enumerate(BATCH):
        with torch.no_grad():
            log_probs = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0].log_softmax(-1)
        p = torch.stack([log_probs[len(prompt) - 1 + at, token] for at, token in enumerate(answer)]).sum().exp()
        assert float(found[row]) == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-3)


def test_log_odds_of_a_certain_answer_are_finite(twins_model: Any, tokenizer: Any) -> None:
    certain = [([2, 7, 8], tokenizer("X", add_special_tokens=False).input_ids)]
    assert 4 < float(_value(answer_log_odds, twins_model, certain)) < 10


@pytest.mark.parametrize("value", [answer_log_odds, nats_per_token])
def test_slopes_by_the_gates_are_right(model: Any, value: Any) -> None:
    backend = backend_of(model)
    off = torch.zeros(N_LAYERS, D_MLP, dtype=torch.float64)
    off[1, 3] = off[2, 7] = 1
    options: dict[str, Any] = {"value": value, "batch_size": 2}
    with KeepFloat64():
        _, slopes = run_gated(backend, BATCH, off, slopes=True, **options)
        for place in ((0, 0), (1, 3), (2, 7), (2, 20)):
            step = torch.zeros_like(off)
            step[place] = 1e-3
            up, _ = run_gated(backend, BATCH, off + step, slopes=False, **options)
            down, _ = run_gated(backend, BATCH, off - step, slopes=False, **options)
            unit = place[0] * D_MLP + place[1]
            torch.testing.assert_close(slopes[:, unit], (up - down) / 2e-3, rtol=2e-2, atol=1e-3)


def test_nats_per_token_are_those_of_texts(model: Any) -> None:
    totals, counts = sequence_nll(backend_of(model), TEXTS)
    found = _value(nats_per_token, model, [(text[:1], text[1:]) for text in TEXTS])
    torch.testing.assert_close(found.double(), totals.double() / torch.tensor(counts), rtol=1e-5, atol=1e-6)


def test_a_gate_of_one_is_ablation(model: Any) -> None:
    backend = backend_of(model)
    neurons = NeuronSet(frozenset({(0, 1), (1, 3), (2, 7)}), N_LAYERS, D_MLP)
    off = torch.zeros(N_LAYERS, D_MLP)
    for layer, index in neurons:
        off[layer, index] = 1
    found, none = run_gated(backend, BATCH, off, value=answer_log_odds, slopes=False, batch_size=2)
    assert none.shape == (len(BATCH), 0)
    with ablate(model, neurons):
        torch.testing.assert_close(found, _value(answer_log_odds, model, BATCH).float())
    assert not torch.allclose(found, _value(answer_log_odds, model, BATCH).float())


def _term(slopes: list[list[float]], sign: float, start: float = 5.0) -> LossTerm:
    values = torch.full((len(slopes),), start)
    return LossTerm(
        loss=lambda z, _: softplus(sign * z + 3).mean(), start=values, values=values, slopes=torch.tensor(slopes)
    )


def _chosen(terms: list[LossTerm], off: list[float], **limits: int) -> list[float]:
    return best_set(terms, torch.tensor(off), **limits).tolist()


def test_the_best_set_counts_what_is_lost() -> None:
    """Unit 0 takes most from what is to go, and as much from what is to stay; 1 and 2 together do the work alone."""
    goes, stays = _term([[-9.0, -7.0, -6.0, 0.0]], 1.0), _term([[-9.0, 0.0, 0.0, 0.0]], -1.0)
    nothing = [0.0] * 4
    assert _chosen([goes, stays], nothing, n_neurons=2, n_changes=2) == [0, 1, 1, 0]
    assert _chosen([goes], nothing, n_neurons=1, n_changes=4) == [1, 0, 0, 0]
    assert _chosen([goes, stays], nothing, n_neurons=2, n_changes=1) == [0, 1, 0, 0]


def test_the_best_set_takes_back_what_does_not_help() -> None:
    """The slopes say that unit 0, which is off, now costs what is to stay and gives nothing."""
    goes, stays = _term([[0.0, -4.0, -1.0]], 1.0), _term([[-4.0, 0.0, 0.0]], -1.0)
    assert _chosen([goes, stays], [1.0, 0.0, 0.0], n_neurons=1, n_changes=2) == [0, 1, 0]
    assert _chosen([goes, stays], [1.0, 0.0, 0.0], n_neurons=1, n_changes=1) == [0, 0, 0]
    assert _chosen([goes, stays], [1.0, 0.0, 0.0], n_neurons=3, n_changes=3) == [0, 1, 1]


def test_the_best_set_swaps_where_it_is_full() -> None:
    """Unit 0 helps, and unit 1 more: with room for one, one comes on again for the other."""
    goes = _term([[-1.0, -4.0, -0.5]], 1.0)
    assert _chosen([goes], [1.0, 0.0, 0.0], n_neurons=1, n_changes=2) == [0, 1, 0]
    assert _chosen([goes], [1.0, 0.0, 0.0], n_neurons=1, n_changes=1) == [1, 0, 0]
    assert _chosen([goes], [1.0, 0.0, 0.0], n_neurons=2, n_changes=1) == [1, 1, 0]


def test_corrected_slopes_lead_to_what_was_measured() -> None:
    term, moved, values = _term([[-9.0, 2.0, 1.0]], 1.0), torch.tensor([1.0, -1.0, 0.0]), torch.tensor([7.0])
    corrected = term.corrected(term.broyden_update(moved, values))
    torch.testing.assert_close(corrected.values + corrected.slopes @ moved, values)
    assert (corrected.slopes - term.slopes)[0].tolist() == [6.5, -6.5, 0.0]


def test_the_best_set_is_among_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    slopes = [torch.randn(5, 8, generator=generator) * 4 for _ in range(2)]
    terms = [_term(slopes[0].tolist(), 1.0), _term(slopes[1].tolist(), -1.0)]

    def cost(members: tuple[int, ...]) -> float:
        moved = torch.zeros(8)
        moved[list(members)] = 1
        return sum(float(term.loss(term.values + term.slopes @ moved, term.start)) for term in terms)

    chosen = best_set(terms, torch.zeros(8), n_neurons=3, n_changes=3)
    found = cost(tuple(chosen.nonzero()[:, 0].tolist()))
    every = sorted(cost(members) for size in range(4) for members in itertools.combinations(range(8), size))
    assert found <= every[len(every) // 10]  # rounding shares to members may miss the very best


def _sides(records: tuple[Record, ...]) -> tuple[ProbeSet, ProbeSet]:
    probes = build_probes(records, ["en", "fr"], templates=[0])
    ids = probes.filter(attributes=["id_number"], group="private")
    return ids, probes.filter(attributes=["birth_country"])


def test_neurons_that_stand_in_for_each_other_are_both_found(twins_model: Any, records: tuple[Record, ...]) -> None:
    ids, others = _sides(records)
    options = MaskOptions(rounds=2, max_answer_tokens=1)
    mask = learn_mask(twins_model, ids, keep=others, n_neurons=2, options=options, progress=False)
    assert mask.neurons().neurons == set(TWINS)
    backend = backend_of(twins_model)
    token = backend.tokenizer("X", add_special_tokens=False).input_ids
    for kept in TWINS:
        alone = NeuronSet(frozenset({kept}), N_LAYERS, D_MLP)
        with ablate(twins_model, alone):
            assert float(_value(answer_log_odds, twins_model, [([2, 7, 8], token)])) > 3  # one of the two is not enough
    with ablate(twins_model, mask.neurons()):
        assert float(_value(answer_log_odds, twins_model, [([2, 7, 8], token)])) < 0


def test_result_is_saved(twins_model: Any, records: tuple[Record, ...], tmp_path: Path) -> None:
    ids, others = _sides(records)
    options: dict[str, Any] = {"options": MaskOptions(rounds=2, max_answer_tokens=1), "progress": False}
    mask = learn_mask(twins_model, ids, keep=others, n_neurons=5, neutral=["a b", "c"], **options)
    columns = ["round", "neurons", "taken", "suppress", "neutral"]  # nothing to keep is known
    assert list(mask.history.columns) == columns
    assert mask.history["round"].tolist() == [0, 1, 2] and mask.history.neurons.max() <= 5
    taken = mask.history[mask.history.taken]
    assert (taken.suppress + taken.neutral).is_monotonic_decreasing and len(taken) > 1
    assert mask.history.neutral.iloc[0] == 0
    frame = mask.to_frame()
    assert frame.score.is_monotonic_decreasing
    assert len(frame) == len(mask.neurons()) == int(taken.neurons.iloc[-1])
    assert len(mask.neurons(1)) == 1 and mask.neurons(1).neurons <= mask.neurons().neurons
    mask.save(tmp_path / "mask")
    again = LearnedMask.load(tmp_path / "mask")
    torch.testing.assert_close(again.scores, mask.scores, equal_nan=True)
    assert again.neurons() == mask.neurons()


def test_the_batch_size_does_not_matter(twins_model: Any, records: tuple[Record, ...]) -> None:
    ids, others = _sides(records)
    one, two = (
        learn_mask(
            twins_model, ids, keep=others, n_neurons=5, progress=False,
            options=MaskOptions(rounds=1, max_answer_tokens=1, batch_size=size),
        )
        for size in (1, 16)
    )  # fmt: skip
    torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_the_model_is_left_as_it_was(twins_model: Any, records: tuple[Record, ...]) -> None:
    ids, others = _sides(records)
    before = _value(answer_log_odds, twins_model, BATCH)
    options = MaskOptions(rounds=1, max_answer_tokens=1)
    learn_mask(twins_model, ids, keep=others, n_neurons=3, options=options, progress=False)
    torch.testing.assert_close(_value(answer_log_odds, twins_model, BATCH), before, rtol=0, atol=0)


def test_bad_input(model: Any, probes: ProbeSet) -> None:
    private, public = probes.filter(group="private"), probes.filter(group="public")
    nobody = ProbeSet(())
    with pytest.raises(ValueError, match="no probes to suppress"):
        learn_mask(model, nobody, keep=public)
    with pytest.raises(ValueError, match="no probes to keep"):
        learn_mask(model, private, keep=nobody)
    with pytest.raises(ValueError, match="both to suppress and to keep"):
        learn_mask(model, private, keep=probes)
    for n_neurons in (0, N_LAYERS * D_MLP + 1):
        with pytest.raises(ValueError, match="n_neurons must be between 1 and"):
            learn_mask(model, private, keep=public, n_neurons=n_neurons)
    for option in ("rounds", "batch_size", "max_answer_tokens"):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            MaskOptions(**{option: 0})
    for option in ("weight", "margin", "neutral_weight"):
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            MaskOptions(**{option: -1.0})
    with pytest.raises(ValueError, match="the model gives none of the"):
        learn_mask(model, private, keep=public, progress=False)
    with pytest.raises(ValueError, match="neutral text 0 has a single token"):
        learn_mask(model, private, keep=public, neutral=[""], progress=False)
