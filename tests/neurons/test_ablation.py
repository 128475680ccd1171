"""Deactivation: acts at every position and step, nests, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from xlmech.engine.batching import Recorder
from xlmech.engine.generate import generate
from xlmech.engine.record import activation_moments
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.load import model_name
from xlmech.models.tokens import encode_prompt
from xlmech.neurons.ablation import ablate, asking
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame
from xlmech.storage.result import Provenance

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


def _everything(model: Any) -> NeuronSet:
    backend = backend_of(model)
    return _set(model, *((layer, index) for layer in range(backend.n_layers) for index in range(backend.d_mlp)))


def _written(model: Any, prompt: list[int], n: int) -> list[int]:
    """Greedy continuation by whole runs, without a cache."""
    written = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            written.append(int(model(torch.tensor([written]), return_type="logits")[0, -1].argmax()))
    return written[len(prompt) :]


def test_acts_in_cached_generation(model: Any) -> None:
    backend, prompt = backend_of(model), TOKENS[0].tolist()
    with pytest.warns(UserWarning, match="every neuron of layer 0, 1, 2"), ablate(model, _everything(model)):
        cached = generate(backend, [prompt], max_new_tokens=5)[0]
        wanted = _written(model, prompt, len(cached))
    assert cached == wanted
    assert cached != generate(backend, [prompt], max_new_tokens=5)[0]


def test_whole_layers_warn(model: Any) -> None:
    layer = _set(model, *((1, index) for index in range(backend_of(model).d_mlp)))
    for how in ({}, {"mode": "scale"}, {"mode": "mean", "values": _values(model)}):
        with (
            pytest.warns(UserWarning, match="every neuron of layer 1 is ablated") as caught,
            ablate(model, layer, **how),
        ):
            pass
        assert caught[0].filename == __file__
    halves = {"": _set(model, *list(layer)[:9]), "fr": _set(model, *list(layer)[9:])}
    with pytest.warns(UserWarning, match="every neuron of layer 1"), ablate(model, halves):
        pass
    with ablate(model, layer, mode="scale", factor=0.5), ablate(model, _set(model, *list(layer)[1:])):
        pass


def _values(model: Any, seed: int = 5) -> torch.Tensor:
    backend = backend_of(model)
    return torch.randn(backend.n_layers, backend.d_mlp, generator=torch.Generator().manual_seed(seed))


def _activations(model: Any, run: Callable[[], Any]) -> torch.Tensor:
    """(layer, row, position, neuron) of a run: as the hooks leave them, since these recorders are added last."""
    recorder = Recorder(backend_of(model), NEURON_HOOK)
    with backend_of(model).hooks(recorder.hooks()):
        run()
    return torch.stack(recorder.kept)


def test_mean_replaces_by_the_values(model: Any) -> None:
    chosen, values = _set(model, (0, 3), (2, 5)), _values(model)
    plain = _activations(model, lambda: _logits(model))
    with ablate(model, chosen, mode="mean", values=values):
        found = _activations(model, lambda: _logits(model))
    assert torch.equal(found[0, 0, :, 3], values[0, 3].to(found).expand(5))
    assert torch.equal(found[2, 0, :, 5], values[2, 5].to(found).expand(5))
    others = [index for index in range(plain.shape[-1]) if index != 3]
    assert torch.equal(found[0][..., others], plain[0][..., others])
    with ablate(model, chosen, mode="mean", values=torch.zeros_like(values)):
        zeros = _logits(model)
    with ablate(model, chosen):
        assert torch.equal(_logits(model), zeros)


def test_noise_has_its_mean_and_spread_and_is_the_same_every_time(model: Any) -> None:
    one, two, values = _set(model, (0, 3)), _set(model, (0, 3), (0, 9)), _values(model)
    long = torch.tensor([[2, *range(3, 203)]] * 2)

    def run(chosen: NeuronSet, **how: Any) -> torch.Tensor:
        with torch.no_grad(), ablate(model, chosen, mode="noise", values=values, **how):
            return _activations(model, lambda: model(long, return_type="logits"))[0, :, :, 3]

    found = run(one, std=2.0)
    assert torch.equal(found[0], found[1])  # rows
    assert torch.equal(run(two, std=torch.full_like(values, 2.0)), found)  # other members of the set
    assert not torch.allclose(run(one, std=2.0, seed=1), found)
    drawn = (found[0] - values[0, 3]) / 2
    assert abs(float(drawn.mean())) < 0.25 and abs(float(drawn.std()) - 1) < 0.15
    assert len(drawn.unique()) == len(drawn)
    torch.testing.assert_close(run(one, std=0.0)[0], values[0, 3].to(found).expand(len(drawn)))


@pytest.mark.parametrize("mode", ["zero", "noise"])
def test_positions_hold_in_cached_and_padded_generation(model: Any, mode: str) -> None:
    """Prompts of several lengths, joined with padding on the left, and a slice that begins in the prompt and ends after it."""
    backend, short, long = backend_of(model), TOKENS[0].tolist(), [2, 17, 45, 9, 80, 33, 12]
    half = _set(model, *((layer, index) for layer in range(3) for index in range(0, backend.d_mlp, 2)))
    how: dict[str, Any] = {"positions": slice(4, 9)} if mode == "zero" else {
        "mode": "noise", "values": _values(model), "std": 3.0
    }  # fmt: skip
    with ablate(model, half, **how):
        cached = generate(backend, [short, long], max_new_tokens=6)
        assert cached == [
            _written(model, prompt, len(found)) for prompt, found in zip([short, long], cached, strict=True)
        ]
    assert cached != generate(backend, [short, long], max_new_tokens=6)
    assert any(len(found) > 4 for found in cached)


def test_positions_hold_with_transformerlens_own_generation(model: Any) -> None:
    half = _set(model, *((layer, index) for layer in range(3) for index in range(0, backend_of(model).d_mlp, 2)))
    with ablate(model, half, positions=slice(3, 8)):
        found = model.generate(
            TOKENS, max_new_tokens=5, do_sample=False, use_past_kv_cache=True, stop_at_eos=False, verbose=False
        )
        assert found[0, 5:].tolist() == _written(model, TOKENS[0].tolist(), 5)


def test_positions_touch_no_others(model: Any) -> None:
    chosen, plain = _set(model, (0, 3), (2, 5)), _activations(model, lambda: _logits(model))
    with ablate(model, chosen, positions=slice(1, None, 2)):
        found = _activations(model, lambda: _logits(model))
    assert torch.equal(found[0, 0, ::2, 3], plain[0, 0, ::2, 3])
    assert found[0, 0, 1::2, 3].eq(0).all() and plain[0, 0, 1::2, 3].ne(0).all()
    with ablate(model, chosen, positions=slice(0, None)):
        everywhere = _logits(model)
    with ablate(model, chosen):
        assert torch.equal(_logits(model), everywhere)
    with ablate(model, chosen, positions=slice(5, None)):
        assert torch.equal(_logits(model), model(TOKENS, return_type="logits"))


def test_sets_by_language_act_while_it_is_asked(model: Any) -> None:
    always, french, both = _set(model, (0, 1)), _set(model, (1, 2)), _set(model, (0, 1), (1, 2))

    def with_set(chosen: NeuronSet) -> torch.Tensor:
        with ablate(model, chosen, mode="scale", factor=-3.0):
            return _logits(model)

    with ablate(model, {"": always, "fr": both}, mode="scale", factor=-3.0):
        with asking("fr"):
            french_and_always = _logits(model)
            with asking("de"):
                german = _logits(model)
        with pytest.raises(RuntimeError, match="neurons of 'fr' are ablated only for prompts in 'fr'"):
            _logits(model)
    assert torch.equal(german, with_set(always))
    assert torch.equal(french_and_always, with_set(both)) and not torch.equal(german, french_and_always)
    rows = [("universal", "", [(0, 1, 1.0)]), ("specific", "fr", [(1, 2, 1.0)])]
    found = PrivacyNeurons(
        languages=("fr", "de"), scores=torch.zeros(1, french.n_layers, french.d_mlp), chosen=chosen_frame(rows), rule="min",
        provenance=Provenance(model=""),
    )  # fmt: skip
    assert found.union == both
    with ablate(model, found, mode="scale", factor=-3.0), asking("fr"):
        french_logits = _logits(model)
    assert torch.equal(french_logits, with_set(found.union))
    for code in ("", "french"):  # nothing would be ablated, and nothing said
        with pytest.raises(ValueError, match=f"no language pack for '{code}'.*; there are ar, "), asking(code):
            pass
    with (
        pytest.raises(ValueError, match=r"no language pack for 'frn' \(did you mean 'fr'\?\)"),
        ablate(model, {"frn": found.union}),
    ):
        pass


@pytest.mark.parametrize("how", [{}, {"positions": slice(1, 3)}])
def test_composes_with_other_hooks(model: Any, how: Any) -> None:
    """A hook of the caller's own sees what ablate left, and stays when the block ends."""
    seen: list[torch.Tensor] = []
    point = model.hook_dict["blocks.1.mlp.hook_post"]
    with ablate(model, _set(model, (1, 2)), **how):
        point.add_hook(lambda value, hook: seen.append(value.detach()))
        _logits(model)
    assert seen[0][0, 1:3, 2].eq(0).all()
    _logits(model)
    assert len(seen) == 2 and seen[1][0, :, 2].ne(0).all()
    point.remove_hooks()


def test_nothing_is_left_after_following_positions(model: Any) -> None:
    plain, hooks, own = _logits(model), _hook_counts(model), set(vars(model))
    chosen = _set(model, (0, 0))
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), ablate(model, chosen, positions=slice(2)), ablate(model, chosen, positions=slice(1)):
            _logits(model)
            raise error
        assert (_hook_counts(model), set(vars(model))) == (hooks, own)
        assert torch.equal(_logits(model), plain)
    modules = [*model.modules(), *getattr(model, "original_model", model).modules()]
    assert not any(hook.__qualname__.startswith("_following") for part in modules for hook in part._forward_pre_hooks.values()
                   if hasattr(hook, "__qualname__"))  # fmt: skip
    with (
        pytest.raises(RuntimeError, match="outside of a forward pass of the whole model"),
        ablate(model, chosen, positions=slice(1)),
    ):
        model.hook_dict["blocks.0.mlp.hook_post"](torch.zeros(1, 1, 64))


def test_moments_are_those_of_the_activations(model: Any) -> None:
    backend, prompts = backend_of(model), ["abc", "de", "fgh"]
    kept = [
        _activations(model, lambda prompt=prompt: model(torch.tensor([encode_prompt(backend, prompt)])))[:, 0].double()
        for prompt in prompts
    ]
    found, last = activation_moments(model, prompts), activation_moments(model, prompts, positions="last")
    everything = torch.cat([one[:, 1:] for one in kept], dim=1)  # all but the special token in front
    assert (found.n_positions, last.n_positions) == (everything.shape[1], 3)
    torch.testing.assert_close(found.mean, everything.mean(1))
    torch.testing.assert_close(found.std, everything.std(1, correction=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(last.mean, torch.stack([one[:, -1] for one in kept]).mean(0))
    with pytest.raises(ValueError, match="no prompts to take activations from"):
        activation_moments(model, [])
    with pytest.raises(ValueError, match="unknown positions 'first'"):
        activation_moments(model, prompts, positions="first")  # type: ignore[arg-type]


def _bad(value: float) -> torch.Tensor:
    return torch.full((3, 64), value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mode": "remove"}, "unknown mode 'remove'; use 'zero', 'mean', 'scale', 'noise'"),
        ({"mode": "mean"}, "mode 'mean' with values missing and std missing"),
        ({"mode": "noise", "values": _bad(0)}, "mode 'noise' with values given and std missing"),
        ({"values": _bad(0)}, "mode 'zero' with values given"),
        ({"mode": "mean", "values": torch.zeros(3, 2)}, r"values must be finite, .* \(3, 64\), got \(3, 2\)"),
        ({"mode": "mean", "values": _bad(float("nan"))}, "values must be finite"),
        ({"mode": "noise", "values": _bad(0), "std": -1.0}, "std has negative entries"),
        ({"mode": "noise", "values": _bad(0), "std": 1.0, "seed": -1}, "seed must not be negative"),
        ({"mode": "scale", "factor": float("inf")}, "factor must be a finite number"),
        ({"positions": slice(-2, None)}, "must count forwards from the sequence's start"),
        ({"positions": slice(0, -1)}, "must count forwards"),
        ({"positions": slice(9, 0, -1)}, "must count forwards"),
        ({"positions": [1, 2]}, "positions must be a slice"),
    ],
)
def test_refuses_what_does_not_fit(model: Any, how: Any, message: str) -> None:
    hooks = _hook_counts(model)
    with pytest.raises(ValueError, match=message), ablate(model, _set(model, (0, 0)), **how):
        pass
    assert _hook_counts(model) == hooks


def test_refuses_other_models(model: Any) -> None:
    with (
        pytest.raises(
            ValueError, match=r"neurons of a model with \(layers, neurons per layer\) \(2, 8\); this one has"
        ),
        ablate(model, NeuronSet(frozenset({(0, 0)}), 2, 8)),
    ):
        pass
    other = _set(model, (0, 0)).for_model("another")
    with pytest.raises(ValueError, match="neurons of the model 'another'; this one is"), ablate(model, other):
        pass
    with ablate(model, other.for_model(model_name(model))):
        pass
    with (
        pytest.raises(ValueError, match="expected a NeuronSet, NeuronGates, PrivacyNeurons, or"),
        ablate(model, [(0, 1)]),
    ):  # type: ignore[arg-type]
        pass


def test_composes_with_a_hook_that_was_there_before(model: Any) -> None:
    """The caller's own edit comes first, ablate's second; both hold, and the caller's is still there afterwards."""
    point = model.hook_dict["blocks.1.mlp.hook_post"]

    def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return 2 * value

    plain = _activations(model, lambda: _logits(model))
    point.add_hook(double)
    try:
        doubled = _logits(model)
        with ablate(model, _set(model, (1, 2)), mode="scale", factor=3.0):
            found = _activations(model, lambda: _logits(model))
        torch.testing.assert_close(found[1, 0, :, 2], 6 * plain[1, 0, :, 2])
        torch.testing.assert_close(found[1, 0, :, 3], 2 * plain[1, 0, :, 3])
        assert torch.equal(_logits(model), doubled)
    finally:
        point.remove_hooks()


def test_sets_by_language_act_in_cached_generation(model: Any) -> None:
    backend, prompt = backend_of(model), TOKENS[0].tolist()
    half = _set(model, *((layer, index) for layer in range(3) for index in range(0, backend.d_mlp, 2)))
    plain = generate(backend, [prompt], max_new_tokens=5)
    with ablate(model, half):
        always = generate(backend, [prompt], max_new_tokens=5)
    with ablate(model, {"fr": half}):
        with asking("fr"):
            assert generate(backend, [prompt], max_new_tokens=5) == always != plain
        with asking("de"):
            assert generate(backend, [prompt], max_new_tokens=5) == plain
