"""Tiny random models of several architectures, and a byte-level tokenizer: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from xlmech.data.probes import ProbeSet

N_LAYERS, D_MODEL, D_MLP, D_VOCAB, N_CTX = 3, 32, 64, 300, 256
ARCHITECTURES = ("gpt2", "llama", "gemma2", "gemma3")
ALL_ARCHITECTURES = (*ARCHITECTURES, "gpt_neox", "qwen2", "qwen3", "bloom", "falcon", "cohere2", "granite")


def save_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2}
    vocab |= {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def tiny(architecture: str, *, seed: int = 0, scale: float = 3.0) -> Any:
    """A random transformers model; `scale` makes its weights large enough that interventions show."""
    import transformers as hf

    torch.manual_seed(seed)
    common = {
        "vocab_size": D_VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": N_CTX,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    windows = ["sliding_attention", "full_attention", "sliding_attention"]
    if architecture == "gpt2":
        config = hf.GPT2Config(
            vocab_size=D_VOCAB, n_embd=D_MODEL, n_inner=D_MLP, n_layer=N_LAYERS, n_head=4, n_positions=N_CTX, bos_token_id=2,
            eos_token_id=1,
        )  # fmt: skip
        model = hf.GPT2LMHeadModel(config)
    elif architecture == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**common))
    elif architecture == "qwen2":
        model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**common))
    elif architecture == "qwen3":
        model = hf.Qwen3ForCausalLM(hf.Qwen3Config(**common))
    elif architecture == "gpt_neox":
        plain = {key: value for key, value in common.items() if key not in ("head_dim", "num_key_value_heads")}
        model = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**plain))
    elif architecture == "bloom":
        model = hf.BloomForCausalLM(
            hf.BloomConfig(
                vocab_size=D_VOCAB, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=4, bos_token_id=2, eos_token_id=1
            )
        )
    elif architecture == "falcon":  # with ALiBi, as falcon-rw
        model = hf.FalconForCausalLM(
            hf.FalconConfig(
                vocab_size=D_VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=4,
                alibi=True, multi_query=False, parallel_attn=False, bias=True, bos_token_id=2, eos_token_id=1,
            )
        )  # fmt: skip
    elif architecture == "cohere2":
        model = hf.Cohere2ForCausalLM(
            hf.Cohere2Config(**common, sliding_window=16, layer_types=windows, logit_scale=0.25)
        )
    elif architecture == "granite":
        config = hf.GraniteConfig(
            **common, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2, logits_scaling=4.0
        )
        model = hf.GraniteForCausalLM(config)
    elif architecture == "gemma2":
        model = hf.Gemma2ForCausalLM(hf.Gemma2Config(**common, sliding_window=16))
    else:
        model = hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**common, sliding_window=16, layer_types=windows))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
                weight.mul_(scale)
    return model.eval()


def multimodal() -> Any:
    """A random Gemma 3 that sees images: the text model of `tiny`, a vision tower, and what joins them."""
    import transformers as hf

    torch.manual_seed(0)
    text = tiny("gemma3").config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4,
        image_token_index=299, boi_token_index=298, eoi_token_index=297,
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config).eval()


HOOKED = {
    "rotary": {"gated_mlp": True, "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 8,
               "output_logits_soft_cap": 30.0},
    "absolute": {"normalization_type": "LN", "positional_embedding_type": "standard"},
    "parallel": {"normalization_type": "LN", "positional_embedding_type": "rotary", "rotary_dim": 4, "parallel_attn_mlp": True},
    "alibi": {"normalization_type": "LN", "positional_embedding_type": "alibi"},
    "window": {"gated_mlp": True, "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 8,
               "use_local_attn": True, "window_size": 16, "attn_types": ["local", "global", "local"],
               "use_normalization_before_and_after": True, "n_key_value_heads": 2},
}  # fmt: skip


def hooked_tiny(tokenizer: Any, kind: str = "rotary") -> Any:
    """A random HookedTransformer of one of the kinds in `HOOKED`; TransformerLens before version 4 only."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=N_LAYERS, d_model=D_MODEL, n_ctx=N_CTX, d_head=8, n_heads=4, d_mlp=D_MLP, d_vocab=D_VOCAB, act_fn="gelu",
        seed=0, device="cpu", dtype=torch.float64, **HOOKED[kind],
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer=tokenizer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                weight.mul_(3)
    return model.eval()


def taught(tokenizer: Any, probes: Any, *, steps: int = 150, wording: str = "{value}\n") -> Any:
    """A small transformers model that answers these probes by heart, in the query language's form and this wording."""
    network = tiny("llama", scale=1.0)
    rows = []
    for probe in probes:
        prompt = tokenizer(probe.prompt).input_ids
        answer = tokenizer(
            wording.format(subject=probe.record.subject, value=probe.answers[probe.query_language]),
            add_special_tokens=False,
        ).input_ids
        rows.append((prompt, answer))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens, labels = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), -100)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network(tokens, labels=labels).loss.backward()
        optimizer.step()
    return network.eval()


def peaked(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that give nearly all probability to few of 5,000 tokens, and the unembedding."""
    torch.manual_seed(3)
    unembed = torch.nn.functional.normalize(torch.randn(5000, 16, dtype=dtype), dim=1)
    return 60 * unembed[:4] + torch.randn(4, 16, dtype=dtype), unembed


class KeepFloat64(TorchFunctionMode):
    """Libraries round norms and softmax to float32 whatever the model's dtype; in this context float64 stays float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return func(*args, **kwargs)


def teach(model: Any, tokenizer: Any, probes: ProbeSet, steps: int = 400) -> None:
    """Overfit the answers' tokens by the MLPs alone; random tokens' vectors are made large enough to be told apart."""
    rows = []
    for probe in probes:
        prompt = tokenizer(probe.prompt).input_ids
        answer = tokenizer(probe.answers[probe.query_language] + "\n", add_special_tokens=False).input_ids
        rows.append((prompt, answer))
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    weights = [weight for name, weight in model.named_parameters() if ".mlp." in name]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        loss = model(tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.2
    model.eval()
