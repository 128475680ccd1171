"""Families of models, each a tiny random one made from its transformers config, and what xlmech is checked for on them.

Every figure is compared with transformers alone, by a way of computing it that xlmech does not use.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers.tiny_models import D_MLP, D_MODEL, D_VOCAB, N_CTX

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.unembed import token_logits
from xlmech.lens.logit import logit_lens
from xlmech.mitigation.export.checkpoint import export_model
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model, model_name
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet

TOLERANCE = 1e-5
"""Largest difference in float32, relative to the largest logit."""
CHECKS = {
    "loads": "`load_model` takes it",
    "same logits": "the engine's logits are transformers' own, over 40 positions",
    "lens end": "the lens at the last layer is the model's output",
    "ablation": "ablated neurons are zeroed columns of the down projection",
    "export": "the exported checkpoint, read by transformers alone, is the ablated model",
}
_TOKENS = {"bos_token_id": 2, "eos_token_id": 1}
_PLAIN = _TOKENS | {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": N_CTX, "pad_token_id": 0,
}  # fmt: skip
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_HEADED = _GROUPED | {"head_dim": 8}
_GPT2 = _TOKENS | {
    "vocab_size": D_VOCAB, "n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": 3, "n_head": 4, "n_positions": N_CTX
}  # fmt: skip
_WIDE = _TOKENS | {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": 3, "num_attention_heads": 4}
_FALCON = _WIDE | {"alibi": False, "parallel_attn": True, "bias": False}
_STATES = {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": 3}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        models: Names by which people know some of its models.
        model: Class of transformers.
        config: Arguments of its config.
        down: Name of the down projection in a layer, of which neurons are the inputs; "" for a family that is refused.
        refusal: Part of the sentence by which it is refused.
    """

    models: str
    model: str
    config: dict[str, Any] = field(repr=False)
    down: str = ""
    refusal: str = ""


FAMILIES = {
    "gpt2": Family(models="GPT-2", model="GPT2LMHeadModel", config=_GPT2, down="mlp.c_proj"),
    "gpt_neo": Family(
        models="GPT-Neo", model="GPTNeoForCausalLM", down="mlp.c_proj",
        config=_TOKENS | {
            "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_layers": 2, "attention_types": [[["global", "local"], 1]],
            "num_heads": 4, "intermediate_size": D_MLP, "max_position_embeddings": N_CTX, "window_size": 16,
        },
    ),
    "gptj": Family(models="GPT-J", model="GPTJForCausalLM", config=_GPT2 | {"rotary_dim": 4}, down="mlp.fc_out"),
    "gpt_neox": Family(models="Pythia, GPT-NeoX", model="GPTNeoXForCausalLM", config=_PLAIN, down="mlp.dense_4h_to_h"),
    "opt": Family(
        models="OPT", model="OPTForCausalLM", down="fc2",
        config=_WIDE | {"ffn_dim": D_MLP, "max_position_embeddings": N_CTX, "word_embed_proj_dim": D_MODEL, "pad_token_id": 0},
    ),
    "bloom": Family(
        models="BLOOM, BLOOMZ", model="BloomForCausalLM", down="mlp.dense_4h_to_h",
        config=_TOKENS | {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "n_layer": 3, "n_head": 4},
    ),
    "falcon": Family(
        models="Falcon 7B", model="FalconForCausalLM", config=_FALCON | {"multi_query": True}, down="mlp.dense_4h_to_h"
    ),
    "xglm": Family(
        models="XGLM", model="XGLMForCausalLM", down="fc2",
        config=_TOKENS | {
            "vocab_size": D_VOCAB, "d_model": D_MODEL, "ffn_dim": D_MLP, "num_layers": 3, "attention_heads": 4,
            "max_position_embeddings": N_CTX, "pad_token_id": 0,
        },
    ),
    "llama": Family(models="Llama 2 and 3, SmolLM2", model="LlamaForCausalLM", config=_HEADED, down="mlp.down_proj"),
    "mistral": Family(
        models="Mistral", model="MistralForCausalLM", config=_HEADED | {"sliding_window": 16}, down="mlp.down_proj"
    ),
    "qwen2": Family(models="Qwen 2 and 2.5", model="Qwen2ForCausalLM", config=_GROUPED, down="mlp.down_proj"),
    "qwen3": Family(models="Qwen 3", model="Qwen3ForCausalLM", config=_HEADED, down="mlp.down_proj"),
    "gemma": Family(models="Gemma", model="GemmaForCausalLM", config=_HEADED, down="mlp.down_proj"),
    "gemma2": Family(
        models="Gemma 2", model="Gemma2ForCausalLM", config=_HEADED | {"sliding_window": 16}, down="mlp.down_proj"
    ),
    "gemma3_text": Family(
        models="Gemma 3", model="Gemma3ForCausalLM", down="mlp.down_proj",
        config=_HEADED | {
            "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi": Family(models="Phi-1 to Phi-2", model="PhiForCausalLM", config=_PLAIN, down="mlp.fc2"),
    "phi3": Family(models="Phi-3, Phi-4", model="Phi3ForCausalLM", config=_GROUPED, down="mlp.down_proj"),
    "olmo2": Family(models="OLMo 2", model="Olmo2ForCausalLM", config=_GROUPED, down="mlp.down_proj"),
    "stablelm": Family(models="StableLM", model="StableLmForCausalLM", config=_GROUPED, down="mlp.down_proj"),
    "starcoder2": Family(models="StarCoder2", model="Starcoder2ForCausalLM", config=_GROUPED, down="mlp.c_proj"),
    "smollm3": Family(models="SmolLM3", model="SmolLM3ForCausalLM", config=_GROUPED, down="mlp.down_proj"),
    "cohere": Family(
        models="Aya 23, Aya Expanse, Command R", model="CohereForCausalLM",
        config=_GROUPED | {"logit_scale": 0.25}, down="mlp.down_proj"
    ),
    "cohere2": Family(
        models="Command R7B, Command A", model="Cohere2ForCausalLM", down="mlp.down_proj",
        config=_HEADED | {"logit_scale": 0.25, "sliding_window": 16},
    ),
    "granite": Family(
        models="Granite 3", model="GraniteForCausalLM", down="mlp.down_proj",
        config=_GROUPED | {
            "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 4.0,
        },
    ),
}  # fmt: skip
_RECURRENT = "has layers that pass a state from token to token (a state-space, recurrent or convolutional model)"
REFUSED = {
    "mamba": Family(
        models="Mamba", model="MambaForCausalLM", config=_STATES | {"state_size": 4}, refusal=_RECURRENT,
    ),
    "rwkv": Family(
        models="RWKV 4", model="RwkvForCausalLM", config=_STATES | {"attention_hidden_size": D_MODEL}, refusal=_RECURRENT,
    ),
    "jamba": Family(
        models="Jamba and other hybrids", model="JambaForCausalLM", refusal=_RECURRENT,
        config=_GROUPED | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
    ),
    "lfm2": Family(
        models="LFM2", model="Lfm2ForCausalLM", config=_GROUPED | {"layer_types": ["conv", "full_attention", "conv"]},
        refusal=_RECURRENT,
    ),
    "falcon, new decoder": Family(
        models="Falcon 40B, Falcon 2", model="FalconForCausalLM", refusal="cannot wrap this FalconForCausalLM",
        config=_FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "opt, projected embedding": Family(
        models="OPT 350M", model="OPTForCausalLM", refusal="has no norm after its last layer",
        config=FAMILIES["opt"].config | {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "bert": Family(
        models="BERT as a decoder", model="BertLMHeadModel", config=_PLAIN | {"is_decoder": True},
        refusal="its output transform is not one that xlmech knows",
    ),
    "t5": Family(
        models="T5, mT5", model="T5ForConditionalGeneration", refusal="is not a causal language model",
        config={"vocab_size": D_VOCAB, "d_model": D_MODEL, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": D_MLP},
    ),
}  # fmt: skip
EXPERTS = {
    "mixtral": Family(
        models="Mixtral", model="MixtralForCausalLM", config=_GROUPED | {"num_local_experts": 4},
        refusal="is a mixture of experts",
    ),
    "qwen2_moe": Family(
        models="Qwen 1.5 MoE", model="Qwen2MoeForCausalLM", refusal="is a mixture of experts",
        config=_GROUPED | {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
}  # fmt: skip


def network_of(family: Family, *, scale: float = 3.0) -> Any:
    """A random transformers model of the family; `scale` makes its weights large enough that interventions show."""
    import transformers

    torch.manual_seed(0)
    model_class = getattr(transformers, family.model)
    network = model_class(model_class.config_class(**family.config))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and not any(part in name for part in ("embed", "wte", "wpe")):
                weight.mul_(scale)
    return network.eval()


def differences(family: Family, tokenizer: Any, probes: ProbeSet, folder: Path) -> dict[str, float]:
    """Run every check but the first; each difference is relative to what transformers computes.

    Args:
        family: One that is supported.
        tokenizer: For the model.
        probes: Questions whose first answer tokens the lens reads.
        folder: New folder for the export.
    """
    plain = network_of(family)
    source = copy.deepcopy(plain)
    model = load_model(copy.deepcopy(plain), tokenizer=tokenizer, backend="bridge")
    n_layers, tokens = backend_of(model).n_layers, _tokens()
    chosen = {(layer, number) for layer in range(n_layers) for number in range(layer, 20, 3)}
    neurons = NeuronSet(frozenset(chosen), n_layers, backend_of(model).d_mlp, model_name(model))
    with torch.no_grad():
        logits = plain(tokens).logits
        found = {"same logits": _difference(_engine_logits(model, tokens), logits)}
        found["lens end"] = _lens_difference(model, plain, tokenizer, probes)
        _zero_columns(plain, family.down, chosen)
        zeroed = plain(tokens).logits
        with ablate(model, neurons):
            found["ablation"] = _difference(_engine_logits(model, tokens), zeroed)
        assert _difference(zeroed, logits) > 1e-2, "the neurons do nothing"
    export_model(source, neurons, folder, tokenizer=tokenizer, without_effect=True)
    found["export"] = _difference(_reloaded(folder)(tokens).logits, zeroed)
    return found


def passed(family: Family, tokenizer: Any, probes: ProbeSet, folder: Path) -> dict[str, bool]:
    """Tell which checks of `CHECKS` a family passes; none where it is refused."""
    try:
        found = {"loads": 0.0} | differences(family, tokenizer, probes, folder)
    except (ValueError, RuntimeError):
        return dict.fromkeys(CHECKS, False)
    return {name: found[name] <= TOLERANCE for name in CHECKS}


def countries() -> ProbeSet:
    """Questions for the countries of two people, in two languages."""
    people = {"Ana Li": "FR", "Bo Kim": "JP"}
    records = [
        Record(id=subject, subject=subject, attribute="birth_country", value=value, group="private")
        for subject, value in people.items()
    ]
    return build_probes(records, ["en", "fr"], templates=[0])


def _tokens() -> torch.Tensor:
    return torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(0))


def _engine_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    backend = backend_of(model)
    hidden, _ = backend.hidden(tokens)
    return token_logits(hidden.flatten(0, 1), backend.unembed, **backend.unembed_options).view(*tokens.shape, -1)


def _lens_difference(model: Any, plain: Any, tokenizer: Any, probes: ProbeSet) -> float:
    """Largest difference between log-probabilities of answers that the lens reads at its end and the model's own."""
    readings = logit_lens(model, probes, progress=False).readings
    last = readings[(readings.layer == readings.layer.max()) & (readings.form == "query")].set_index("probe")
    errors = []
    for probe in probes:
        logits = plain(torch.tensor([tokenizer(probe.prompt).input_ids])).logits[0, -1]
        token = tokenizer(probe.answers[probe.query_language], add_special_tokens=False).input_ids[0]
        read = torch.tensor(float(last.prob[probe.id]), dtype=torch.float32)
        errors.append(float((read.log() - logits.log_softmax(-1)[token]).abs()))
    return max(errors)


def _zero_columns(network: Any, down: str, neurons: set[tuple[int, int]]) -> None:
    modules = {name: part for name, part in network.named_modules() if name.endswith(f".{down}")}
    for name, part in modules.items():
        layer = int(next(piece for piece in name.split(".") if piece.isdigit()))
        indices = [number for own, number in neurons if own == layer]
        columns = part.weight.T if type(part).__name__ == "Conv1D" else part.weight
        columns[:, indices] = 0


def _reloaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def _difference(logits: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((logits.detach() - wanted).abs().max() / wanted.abs().max())
