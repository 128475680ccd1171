"""Deactivation: acts at every position and step, nests, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlmech.ablation import ablate
from xlmech.answers import generate
from xlmech.backends import backend_of
from xlmech.neurons import NeuronSet

TOKENS = torch.tensor([[2, 7, 8, 9, 11]])


def _set(model: Any, *neurons: tuple[int, int]) -> NeuronSet:
    backend = backend_of(model)
    return NeuronSet(frozenset(neurons), backend.n_layers, backend.d_mlp)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, return_type="logits")


def _hook_counts(model: Any) -> list[int]:
    return [len(point.fwd_hooks) for point in model.hook_dict.values()]


def test_empty_set_changes_nothing(model: Any) -> None:
    plain = _logits(model)
    with ablate(model, _set(model)):
        assert torch.equal(_logits(model), plain)


def test_zeroing_equals_zeroed_output_weights(model: Any) -> None:
    """Deactivating neuron i is the same as a W_out whose row i is zero."""
    chosen = _set(model, (0, 3), (0, 10), (2, 5))
    with ablate(model, chosen):
        found = _logits(model)
    saved = []
    for layer, indices in chosen.by_layer().items():
        weight = model.blocks[layer].mlp.W_out
        matrix = weight if weight.shape[0] == chosen.d_mlp else weight.T
        saved.append((matrix, indices, matrix[indices].clone()))
        matrix.data[indices] = 0
    try:
        wanted = _logits(model)
    finally:
        for matrix, indices, rows in saved:
            matrix.data[indices] = rows
    assert not torch.allclose(wanted, _logits(model))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_scaling_by_one_changes_nothing_and_by_zero_is_zeroing(model: Any) -> None:
    chosen, plain = _set(model, (1, 4)), _logits(model)
    with ablate(model, chosen, mode="scale", factor=1.0):
        assert torch.equal(_logits(model), plain)
    with ablate(model, chosen, mode="scale", factor=0.0):
        scaled = _logits(model)
    with ablate(model, chosen):
        assert torch.equal(_logits(model), scaled)


def test_blocks_nest_and_order_does_not_matter(model: Any) -> None:
    one, two = _set(model, (0, 1), (1, 2)), _set(model, (1, 2), (2, 3))
    with ablate(model, one | two):
        both = _logits(model)
    with ablate(model, one), ablate(model, two):
        torch.testing.assert_close(_logits(model), both)
    with ablate(model, two), ablate(model, one):
        torch.testing.assert_close(_logits(model), both)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_restores_on_any_exit(model: Any, error: type[BaseException]) -> None:
    plain, hooks = _logits(model), _hook_counts(model)
    with pytest.raises(error), ablate(model, _set(model, (0, 0))):
        assert _hook_counts(model) != hooks
        raise error
    assert _hook_counts(model) == hooks
    assert torch.equal(_logits(model), plain)


def test_acts_in_cached_generation(model: Any) -> None:
    backend = backend_of(model)
    everything = NeuronSet(
        frozenset((layer, index) for layer in range(backend.n_layers) for index in range(backend.d_mlp)),
        backend.n_layers,
        backend.d_mlp,
    )
    prompt = TOKENS[0].tolist()
    with ablate(model, everything):
        cached = generate(backend, [prompt], max_new_tokens=5)[0]
        written = list(prompt)
        for _ in cached:
            with torch.no_grad():
                written.append(int(model(torch.tensor([written]), return_type="logits")[0, -1].argmax()))
    assert cached == written[len(prompt) :]
    assert cached != generate(backend, [prompt], max_new_tokens=5)[0]


def test_refuses_other_models_and_modes(model: Any) -> None:
    with (
        pytest.raises(
            ValueError, match=r"neurons of a model with \(layers, neurons per layer\) \(2, 8\); this one has"
        ),
        ablate(model, NeuronSet(frozenset({(0, 0)}), 2, 8)),
    ):
        pass
    with pytest.raises(ValueError, match="unknown mode 'remove'"), ablate(model, _set(model), mode="remove"):  # type: ignore[arg-type]
        pass
