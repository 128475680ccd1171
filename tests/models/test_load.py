"""Both kinds of TransformerLens model behind one interface: equal to transformers, hooks gone after any exit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import FAMILIES, network_of
from helpers.tiny_models import ALL_ARCHITECTURES, D_MLP, D_VOCAB, N_LAYERS, multimodal, save_tokenizer, tiny

from xlmech.engine.unembed import token_logits
from xlmech.models import load as models
from xlmech.models.backends import BridgeBackend, backend_of
from xlmech.models.checkpoints import Checkpoint
from xlmech.models.kv_cache import KeyValues
from xlmech.models.load import load_model, provenance

HAS_HOOKED = find_spec("transformer_lens.HookedTransformer") is not None
# TransformerLens 3's Falcon keeps no keys and values, and its Cohere turns queries and keys otherwise (it is refused).
BRIDGED = tuple(name for name in ALL_ARCHITECTURES if name not in ("falcon", "cohere2") or not HAS_HOOKED)


def _logits(backend: Any, tokens: torch.Tensor, past: KeyValues | None = None) -> torch.Tensor:
    hidden, _ = backend.hidden(tokens, past)
    return token_logits(hidden.flatten(0, 1), backend.unembed, **backend.unembed_options).view(*tokens.shape, -1)


@pytest.mark.parametrize("architecture", BRIDGED)
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


@pytest.mark.parametrize("architecture", [*BRIDGED, "installed"])
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
    monkeypatch.setattr("xlmech.models.backends.BridgeBackend.softcap", property(lambda self: 0.01))
    with pytest.raises(ValueError, match="output transform is not one that xlmech knows"):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")


def test_a_stream_that_does_not_lead_to_the_logits_is_noticed(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BridgeBackend.final_norm
    monkeypatch.setattr(BridgeBackend, "final_norm", lambda backend, resid: -plain(backend, resid))
    with pytest.raises(
        ValueError, match=r"through its final norm and unembedding, differs from its logits by \d+.*unknown"
    ):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")


@pytest.mark.parametrize("family", ["opt", "xglm"])
def test_neurons_are_counted_where_transformer_lens_assumes_their_number(family: str, tokenizer: Any) -> None:
    backend = backend_of(load_model(network_of(FAMILIES[family]), tokenizer=tokenizer, backend="bridge"))
    assert backend.d_mlp == D_MLP != 4 * backend.d_model


def test_layers_with_different_numbers_of_neurons_are_refused(tokenizer: Any) -> None:
    network = tiny("llama")
    mlp = network.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = (
        torch.nn.Linear(*sizes, bias=False) for sizes in [(32, 40), (32, 40), (40, 32)]
    )
    with pytest.raises(ValueError, match=r"layers of this model have different numbers of neurons \(40, 64\)"):
        load_model(network, tokenizer=tokenizer, backend="bridge")


def test_a_model_that_runs_without_keys_and_values(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(BridgeBackend, "hidden", fail)
    with pytest.raises(
        ValueError, match=r"this LlamaForCausalLM cannot be run from the keys .* \(list index out of range\); give"
    ):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")


def test_a_tokenizer_is_given_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").save_pretrained(tmp_path / "model")
    wanted = save_tokenizer(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    model = load_model("model", tokenizer="tokenizer", backend="bridge")
    assert backend_of(model).tokenizer.get_vocab() == wanted.get_vocab()
    recipe = model.xlmech_source.recipe
    assert (recipe["source"], recipe["tokenizer"]) == (str(tmp_path / "model"), str(tmp_path / "tokenizer"))
    with pytest.raises(
        ValueError, match=r"^\./none.*give tokenizer= a folder with tokenizer.json, a hub id, or a tokenizer"
    ):
        load_model("model", tokenizer="./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^empty: no tokenizer could be read .*; give tokenizer= a folder"):
        load_model("model", tokenizer="empty")


@pytest.mark.parametrize("family", ["granite"] if HAS_HOOKED else ["cohere", "granite"])
def test_the_logit_scale_is_in_every_hidden_state(family: str, tokenizer: Any) -> None:
    network, tokens = network_of(FAMILIES[family]), torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        logits, trunk = network(tokens).logits.clone(), network.model(tokens).last_hidden_state.clone()
        backend = backend_of(load_model(network, tokenizer=tokenizer, backend="bridge"))
        hidden, _ = backend.hidden(tokens)
    torch.testing.assert_close(hidden, trunk / 4)
    torch.testing.assert_close(hidden @ backend.unembed.T, logits)


# The model itself, before it is wrapped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", BRIDGED)
def test_every_family_computes_what_transformers_does(architecture: str, dtype: torch.dtype, tokenizer: Any) -> None:
    load_model(tiny(architecture).to(dtype), tokenizer=tokenizer, backend="bridge", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(HAS_HOOKED, reason="TransformerLens 3's Falcon keeps no keys and values")
def test_a_bridge_that_computes_something_else_is_refused(
    dtype: torch.dtype, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        models, "_without_alibi", lambda part, args, kwargs: (args, kwargs | {"alibi": kwargs["alibi"] * 4})
    )
    message = r"TransformerBridge does not compute this FalconForCausalLM as transformers does: its logits differ by \d"
    with pytest.raises(ValueError, match=message):
        load_model(tiny("falcon").to(dtype), tokenizer=tokenizer, backend="bridge", dtype=dtype)


def test_a_fault_in_continued_rows_alone_is_seen(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BridgeBackend.hidden

    def without_mask(backend: Any, tokens: torch.Tensor, past: KeyValues | None = None) -> Any:
        return plain(backend, tokens, past and KeyValues(keys=past.keys, values=past.values))

    monkeypatch.setattr(BridgeBackend, "hidden", without_mask)
    with pytest.raises(
        ValueError, match=r"differ by 0.0% where rows are run whole and by [1-9].*continued from a cache"
    ):
        load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")


def test_logits_that_are_not_finite(tokenizer: Any) -> None:
    network = tiny("llama")
    network.lm_head.weight.data *= 1e5
    load_model(network, tokenizer=tokenizer, backend="bridge")
    network = tiny("llama")
    network.model.norm.weight.data *= 6e4
    with pytest.raises(
        ValueError, match="LlamaForCausalLM are not finite numbers in torch.float16; load it with dtype='bf"
    ):
        load_model(network.half(), tokenizer=tokenizer, backend="bridge", dtype="float16")


def test_a_spread_model_is_compared_too(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_model(tmp_path, backend="bridge", device_map={"": "cpu"})
    monkeypatch.setattr(
        "xlmech.models.kv_cache.KeyValues.mask", lambda past, n_new: torch.ones(2, past.n_positions + n_new)
    )
    with pytest.raises(ValueError, match="does not compute this LlamaForCausalLM"):
        load_model(tmp_path, backend="bridge", device_map={"": "cpu"})


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


# Nothing is installed, and no processor is asked for


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What installers and hubs are asked for; a `pip` and a `uv` lie first on the path."""
    asked: list[str] = []

    def note(what: Any, *_: Any, **__: Any) -> None:
        asked.append(str(what))
        raise OSError(str(what))

    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("pip", "uv"):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/installed\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, note)
    monkeypatch.setattr("socket.socket.connect", lambda _, address: note(address))
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *names, **_: note(names))
    yield asked
    assert not (tmp_path / "installed").exists()


def test_of_a_multimodal_checkpoint_the_text_part_is_loaded_and_nothing_else(
    tmp_path: Path, tokenizer: Any, calls: list[str]
) -> None:
    network, folder = multimodal(), tmp_path / "seeing"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    backend = backend_of(load_model(folder, backend="bridge"))
    tokens = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(_logits(backend, tokens), network(tokens).logits, rtol=1e-4, atol=1e-4)
    assert (calls, backend.n_layers) == ([], N_LAYERS)


def test_a_bridge_of_a_multimodal_model_has_no_processor_either(tokenizer: Any, calls: list[str]) -> None:
    from transformers import AutoProcessor

    before, network = AutoProcessor.from_pretrained, multimodal()
    network.config.architectures = [type(network).__name__]
    checkpoint = Checkpoint(model=network, tokenizer=tokenizer, name="an-owner/seeing")
    assert models._bridge(checkpoint, torch.device("cpu"), torch.float32).cfg.is_multimodal
    assert calls == []
    assert AutoProcessor.from_pretrained == before
