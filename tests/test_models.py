"""Both kinds of TransformerLens model behind one interface: equal to transformers, hooks gone after any exit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ARCHITECTURES, D_VOCAB, N_LAYERS, tiny

from xlmech.backends import backend_of
from xlmech.key_values import KeyValues
from xlmech.models import load_model, provenance
from xlmech.readout import token_logits

HAS_HOOKED = find_spec("transformer_lens.HookedTransformer") is not None


def _logits(backend: Any, tokens: torch.Tensor, past: KeyValues | None = None) -> torch.Tensor:
    hidden, _ = backend.hidden(tokens, past)
    return token_logits(hidden.flatten(0, 1), backend.unembed, **backend.readout).view(*tokens.shape, -1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bridge_equals_transformers_beyond_the_window(architecture: str, tokenizer: Any) -> None:
    network = tiny(architecture).double()
    tokens = torch.randint(3, D_VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network(tokens).logits.clone()
        backend = backend_of(load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64))
        torch.testing.assert_close(_logits(backend, tokens), wanted, rtol=1e-5, atol=1e-5)


def test_engine_equals_the_model_itself(model: Any) -> None:
    backend, tokens = backend_of(model), torch.randint(3, D_VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(_logits(backend, tokens), model(tokens, return_type="logits"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "installed"])
def test_a_shared_prefix_changes_nothing(architecture: str, tokenizer: Any, request: pytest.FixtureRequest) -> None:
    model = (
        request.getfixturevalue("model")
        if architecture == "installed"
        else load_model(tiny(architecture).double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)
    )
    backend, tokens = backend_of(model), torch.randint(3, D_VOCAB, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = _logits(backend, tokens)[:, 30:].expand(3, -1, -1)
        _, past = backend.hidden(tokens[:, :35])
        found = _logits(backend, tokens[:, 30:].expand(3, -1), past.until(30).repeat(3))
        again = _logits(backend, tokens[:, 30:].expand(3, -1), past.until(30).repeat(3))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again, found, rtol=0, atol=0)


def test_hooks_are_gone_after_an_exception_and_others_stay(model: Any) -> None:
    backend = backend_of(model)
    name, seen = backend.hook_name("mlp.hook_post", 1), []
    model.hook_dict[name].add_hook(lambda value, hook: seen.append(hook.name))
    try:
        before = len(model.hook_dict[name].fwd_hooks)
        with pytest.raises(KeyboardInterrupt), backend.hooks([(name, lambda value, hook: value * 0)]):
            assert len(model.hook_dict[name].fwd_hooks) == before + 1
            raise KeyboardInterrupt
        assert len(model.hook_dict[name].fwd_hooks) == before
        backend.hidden(torch.tensor([[2, 5]]))
        assert len(seen) == 1
    finally:
        model.hook_dict[name].remove_hooks()


def test_unknown_hook_point_names_those_there(model: Any) -> None:
    with pytest.raises(ValueError, match=r"no hook point 'mlp.hook_nothing' in layer 0; it has .*mlp.hook_post"):
        backend_of(model).hook_name("mlp.hook_nothing", 0)


def test_a_loaded_model_is_taken_as_it_is(model: Any) -> None:
    assert load_model(model) is model
    assert backend_of(model).n_layers == N_LAYERS
    with pytest.raises(ValueError, match="cannot be merged into a model that is hooked already"):
        load_model(model, adapter="en")


def test_provenance_names_model_and_dtype(tokenizer: Any) -> None:
    found = provenance(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge"), seed=7)
    assert (found.model, found.backend, found.dtype, found.seed) == ("LlamaForCausalLM", "bridge", "float32", 7)
    assert found.versions["torch"].startswith("2.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not there; this machine has cpu"),
        ({"dtype": "float7"}, "unknown dtype 'float7'"),
        ({"backend": "both"}, "unknown backend 'both'"),
        ({"tokenizer": None}, "comes without its tokenizer; pass tokenizer="),
        ({"adapter": "tlh"}, "no adapter at 'tlh'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tokenizer: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(tiny("llama"), **{"tokenizer": tokenizer, **arguments})


@pytest.mark.skipif(HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
def test_hooked_backend_needs_transformer_lens_3(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="has no HookedTransformer; install transformer-lens<4"):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="hooked")


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_hooked_backend_points_to_the_bridge_for_unknown_models(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="knows no model 'LlamaForCausalLM'.*give base=.*backend='bridge'"):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="hooked")


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_base_names_the_architecture_of_a_folder(tmp_path: Path, tokenizer: Any) -> None:
    tiny("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="knows no model 'somebody/elses-llama'"):
        load_model(str(tmp_path), backend="hooked", base="somebody/elses-llama")


def test_an_unknown_output_transform_is_noticed(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.backends.BridgeBackend.softcap", property(lambda self: 0.01))
    with pytest.raises(ValueError, match="output transform is not one that xlmech knows"):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")


def test_tokenizer_made_in_memory_is_refused_with_the_remedy(tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    in_memory = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>"
    )
    with pytest.raises(ValueError, match="save it with save_pretrained"):
        load_model(tiny("llama"), tokenizer=in_memory, backend="bridge")


def test_an_unhooked_model_is_not_taken_by_analyses() -> None:
    with pytest.raises(
        ValueError, match="expected a HookedTransformer or TransformerBridge, got Linear; use load_model"
    ):
        backend_of(torch.nn.Linear(1, 1))


def test_a_hooked_model_without_tokenizer_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "xlmech_source", None, raising=False)
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(ValueError, match="the model has no tokenizer; pass tokenizer= to load_model"):
        backend_of(model)


def test_folder_round_trip(tmp_path: Path, tokenizer: Any) -> None:
    network = tiny("llama")
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokens = torch.tensor([[2, 10, 20, 30]])
    with torch.no_grad():
        wanted = network(tokens).logits
        found = _logits(backend_of(load_model(str(tmp_path), backend="bridge")), tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
