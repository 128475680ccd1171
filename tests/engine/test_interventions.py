"""Interventions as rows, against the plain full-sequence loop, on every architecture and both kinds of hooked model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from helpers.tiny_models import ALL_ARCHITECTURES, D_VOCAB, HOOKED, N_LAYERS, KeepFloat64, hooked_tiny, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlmech.engine.interventions import (
    Intervention,
    add,
    interpolate,
    replace,
    replace_units,
    replace_where,
    run_interventions,
)
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import load_model

IS_HOOKED = find_spec("transformer_lens.HookedTransformer") is not None
KINDS = tuple(HOOKED) if IS_HOOKED else ALL_ARCHITECTURES
Edit = Callable[[torch.Tensor], torch.Tensor]


def _load(kind: str, tokenizer: Any, dtype: torch.dtype = torch.float64) -> Backend:
    if IS_HOOKED:
        return backend_of(load_model(hooked_tiny(tokenizer, kind).to(dtype)))
    return backend_of(load_model(tiny(kind).to(dtype), tokenizer=tokenizer, dtype=dtype))


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    with KeepFloat64():
        yield


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest, tokenizer: Any) -> Backend:
    return _load(request.param, tokenizer)


def _tokens(n_prompts: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, D_VOCAB, (n_prompts, length), generator=generator)


@torch.no_grad()
def _plain(backend: Backend, tokens: torch.Tensor, name: str, edit: Edit) -> torch.Tensor:
    """Final hidden states of one full sequence, with one hook."""

    def hook_function(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return edit(value.clone())

    with backend.hooks([(name, hook_function)]):
        hidden, _ = backend.hidden(tokens[None])
    return hidden[0]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _edits(backend: Backend, component: str, layer: int, start: int) -> list[tuple[Intervention, list[Edit]]]:
    """Groups of rows of every kind, each with what a plain hook would do for its variants."""
    width = backend.d_mlp if component == "mlp.hook_post" else backend.d_model
    values, delta = _random(1, 2, 1, width, seed=layer), _random(1, 2, 1, width, seed=layer + 9)
    shares, base, units = torch.tensor([0.25, 1.0]).double(), _random(width, seed=7), torch.tensor([1, 5])

    def put(variant: int) -> Edit:
        def edit(value: torch.Tensor) -> torch.Tensor:
            value[:, start] = values[0, variant, 0]
            return value

        return edit

    def plus(variant: int) -> Edit:
        def edit(value: torch.Tensor) -> torch.Tensor:
            value[:, start:] += delta[0, variant, 0]
            return value

        return edit

    def towards(variant: int) -> Edit:
        def edit(value: torch.Tensor) -> torch.Tensor:
            value[:, start:] += shares[variant] * (base - value[:, start:])
            return value

        return edit

    def without(variant: int) -> Edit:
        def edit(value: torch.Tensor) -> torch.Tensor:
            value[:, start:, units[variant]] = 0
            return value

        return edit

    first = slice(0, 1)
    return [
        (replace(component, layer, values, positions=first), [put(0), put(1)]),
        (add(component, layer, delta), [plus(0), plus(1)]),
        (interpolate(component, layer, base, shares), [towards(0), towards(1)]),
        (replace_units(component, layer, units), [without(0), without(1)]),
    ]


@pytest.mark.parametrize(
    "component", ["mlp.hook_post", "hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]
)
def test_every_intervention_equals_the_full_sequence_loop(backend: Backend, component: str) -> None:
    tokens, start = _tokens(1, 24), 20  # longer than the sliding windows of 16
    _, past = backend.hidden(tokens[:, :start])
    cases = [case for layer in reversed(range(N_LAYERS)) for case in _edits(backend, component, layer, start)]
    with torch.no_grad():
        states = run_interventions(backend, tokens[:, start:], [rows for rows, _ in cases], past=past)
    clean = _plain(backend, tokens[0], backend.hook_name(component, 0), lambda value: value)
    torch.testing.assert_close(states.clean[0], clean[start:], rtol=1e-9, atol=1e-9)
    for (rows, edits), found in zip(cases, states.edited, strict=True):
        for variant, edit in enumerate(edits):
            wanted = _plain(backend, tokens[0], backend.hook_name(component, rows.layer or 0), edit)[start:]
            torch.testing.assert_close(found[0, variant], wanted, rtol=1e-9, atol=1e-9)
            assert (wanted - clean[start:]).abs().max() > 1e-4, "an intervention without effect tests nothing"


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_prompts=st.integers(1, 3),
    start=st.integers(0, 20),
    length=st.integers(1, 6),
    variants=st.lists(st.integers(1, 3), min_size=N_LAYERS, max_size=N_LAYERS),
    seed=st.integers(0, 99),
)
def test_several_prompts_of_any_shape(
    backend: Backend, n_prompts: int, start: int, length: int, variants: list[int], seed: int
) -> None:
    tokens = _tokens(n_prompts, start + length, seed)
    past = backend.hidden(tokens[:, :start])[1] if start else None
    values = [_random(n_prompts, n, length, backend.d_mlp, seed=layer) for layer, n in enumerate(variants)]
    groups = [replace("mlp.hook_post", layer, value) for layer, value in enumerate(values)]
    with torch.no_grad():
        states = run_interventions(backend, tokens[:, start:], groups, past=past)
    assert states.clean.shape == (n_prompts, length, backend.d_model)
    for layer, value in enumerate(values):
        assert states.edited[layer].shape == (n_prompts, variants[layer], length, backend.d_model)
        prompt, variant = seed % n_prompts, seed % variants[layer]

        def put(old: torch.Tensor, new: torch.Tensor = value[prompt, variant]) -> torch.Tensor:
            old[:, start:] = new
            return old

        wanted = _plain(backend, tokens[prompt], backend.hook_name("mlp.hook_post", layer), put)[start:]
        torch.testing.assert_close(states.edited[layer][prompt, variant], wanted, rtol=1e-9, atol=1e-9)


def test_parts_are_replaced_and_later_layers_too(backend: Backend) -> None:
    """Variant 0 replaces unit 3 at the second position, variant 1 all units at the first, each in layers 0 and 2."""
    tokens, mask = _tokens(2, 5), torch.zeros(2, 2, backend.d_mlp, dtype=torch.bool)
    mask[0, 1, 3] = mask[1, 0] = True
    values = _random(2, 1, 2, backend.d_mlp)
    one, two = (replace_where("mlp.hook_post", layer, mask, values, positions=slice(2, 4)) for layer in (0, 2))
    with torch.no_grad():
        (found,) = run_interventions(backend, tokens, [dataclasses.replace(one, later=(two,))]).edited
    for prompt in range(2):
        for variant in range(2):

            def put(value: torch.Tensor, hook: Any, prompt: int = prompt, variant: int = variant) -> torch.Tensor:
                value = value.clone()
                value[:, 2:4][:, mask[variant]] = values[prompt, 0][mask[variant]]
                return value

            with torch.no_grad(), backend.hooks([(backend.hook_name("mlp.hook_post", layer), put) for layer in (0, 2)]):
                wanted, _ = backend.hidden(tokens[prompt][None])
            torch.testing.assert_close(found[prompt, variant], wanted[0], rtol=1e-9, atol=1e-9)


def test_heads_and_hook_points_outside_the_layers(backend: Backend) -> None:
    tokens, heads = _tokens(1, 6), torch.tensor([[0, 3], [1, 2]])
    groups = [replace_units("attn.hook_z", 1, heads), add("hook_embed", None, _random(1, 1, 1, backend.d_model))]
    with torch.no_grad():
        z, embed = run_interventions(backend, tokens, groups).edited
    for variant in range(2):

        def without(value: torch.Tensor, chosen: torch.Tensor = heads[variant]) -> torch.Tensor:
            value[:, :, chosen] = 0
            return value

        wanted = _plain(backend, tokens[0], backend.hook_name("attn.hook_z", 1), without)
        torch.testing.assert_close(z[0, variant], wanted, rtol=1e-9, atol=1e-9)
    wanted = _plain(backend, tokens[0], "hook_embed", lambda value: value + _random(1, 1, backend.d_model))
    torch.testing.assert_close(embed[0, 0], wanted, rtol=1e-9, atol=1e-9)


def test_float32_agrees_too(tokenizer: Any) -> None:
    tokens, found = _tokens(1, 12), []
    for dtype in (torch.float64, torch.float32):
        values = torch.tensor(_random(1, 3, 1, 64).tolist(), dtype=dtype)
        with torch.no_grad():
            states = run_interventions(_load(KINDS[0], tokenizer, dtype), tokens, [replace("mlp.hook_post", 1, values)])
        found.append(states.edited[0].double())
    assert (found[0] - found[1]).norm() / found[0].norm() < 1e-4


def test_gradients_equal_finite_differences(backend: Backend) -> None:
    tokens, target = _tokens(1, 9), torch.tensor([[7]])
    _, past = backend.hidden(tokens[:, :8])
    values = _random(1, 2, 1, backend.d_mlp).requires_grad_()

    def score(these: torch.Tensor) -> torch.Tensor:
        states = run_interventions(backend, tokens[:, 8:], [replace("mlp.hook_post", 0, these)], past=past).edited[0]
        hidden = states[0, :, 0]
        return token_log_prob(hidden, backend.unembed, target[0].expand(len(hidden)), **backend.unembed_options)

    (gradient,) = torch.autograd.grad(score(values)[1], values)
    assert not gradient[:, 0].any(), "rows do not touch each other"
    step = 1e-5 * _random(1, 2, 1, backend.d_mlp, seed=1)
    with torch.no_grad():
        difference = (score(values + step) - score(values - step))[1] / 2
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=1e-5)


def test_replacing_an_activation_by_itself_changes_nothing(backend: Backend) -> None:
    tokens = _tokens(2, 10)
    with torch.no_grad():
        states = run_interventions(backend, tokens, [interpolate("hook_resid_post", 1, torch.zeros(1), torch.zeros(1))])
    torch.testing.assert_close(states.edited[0][:, 0], states.clean, rtol=1e-12, atol=1e-12)


def test_bad_interventions(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"no hook point 'mlp\.hook_experts' in layer 0; it has .*mlp\.hook_post"):
        run_interventions(backend, _tokens(1, 3), [add("mlp.hook_experts", 0, torch.zeros(1, 1, 1, 4))])
    with pytest.raises(ValueError, match="no hook point 'hook_nowhere'"):
        run_interventions(backend, _tokens(1, 3), [add("hook_nowhere", None, torch.zeros(1, 1, 1, 4))])
    with pytest.raises(ValueError, match="at least one variant, got 0"):
        add("mlp.hook_post", 0, torch.zeros(1, 0, 1, 4))
    first, two = add("mlp.hook_post", 1, torch.zeros(1, 1, 1, 4)), add("mlp.hook_post", 2, torch.zeros(1, 2, 1, 4))
    for later in (first, two):
        with pytest.raises(ValueError, match="on the rows of layer 1 need 1 variants and a later layer, got"):
            dataclasses.replace(first, later=(later,))
    assert not any(point.fwd_hooks for point in backend.model.hook_dict.values()), "hooks are gone after an error"


def _experts() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=D_VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    network = MixtralForCausalLM(config).double().eval()
    network.set_experts_implementation("eager")  # the default one multiplies no float64
    return network


def test_neurons_of_experts_are_refused_and_their_residual_stream_is_not(tokenizer: Any) -> None:
    backend = backend_of(load_model(_experts(), tokenizer=tokenizer, backend="bridge", dtype="float64"))
    for component in ("mlp.hook_post", "mlp.hook_pre"):
        with pytest.raises(ValueError, match="layer 0 is a mixture of experts.*hook_attn_out and hook_mlp_out work"):
            backend.hook_name(component, 0)
    rows = [replace("hook_resid_post", layer, torch.ones(1, 2, 1, 32)) for layer in range(2)]
    states = run_interventions(backend, torch.tensor([[2, 7, 8]]), rows)
    assert states.edited[1].shape == (1, 2, 3, 32)
    torch.testing.assert_close(states.edited[1], backend.final_norm(torch.ones(1, 2, 3, 32).double()))


@pytest.mark.parametrize(
    ("component", "module"), [("hook_attn_out", "self_attn"), ("hook_mlp_out", "mlp"), ("hook_resid_post", "")]
)
def test_what_works_in_a_mixture_of_experts_works(component: str, module: str, tokenizer: Any) -> None:
    """Against transformers alone, with the same change made by PyTorch's own hook."""
    tokens, change = torch.tensor([[2, 7, 8]]), _random(1, 1, 3, 32)
    backend = backend_of(load_model(_experts(), tokenizer=tokenizer, backend="bridge", dtype="float64"))
    plain = _experts().model
    with torch.no_grad():
        states = run_interventions(backend, tokens, [add(component, layer, change) for layer in range(2)])
        torch.testing.assert_close(states.clean, plain(tokens).last_hidden_state)
        for layer, found in enumerate(states.edited):
            handle = (
                plain.layers[layer]
                .get_submodule(module)
                .register_forward_hook(
                    lambda _, __, output: (
                        (output[0] + change[0], *output[1:]) if isinstance(output, tuple) else output + change[0]
                    )
                )
            )
            wanted = plain(tokens).last_hidden_state
            handle.remove()
            torch.testing.assert_close(found[:, 0], wanted)
            assert not torch.allclose(wanted, states.clean)
