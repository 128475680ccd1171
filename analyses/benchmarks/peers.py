"""Do the work of `speed_vs_peers.py` as it is usually done: captum, TransformerLens, and plain loops on transformers.

Nothing here uses xlmech. Each function is what a careful user of the peer would write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def neurons_input(network: Any, layer: int) -> torch.nn.Module:
    """The module of a transformers model whose input are a layer's MLP neurons."""
    if hasattr(network, "transformer"):
        module: torch.nn.Module = network.transformer.h[layer].mlp.c_proj
    else:
        module = network.model.layers[layer].mlp.down_proj
    return module


def trunk(network: Any) -> Any:
    """The transformers model below its language-model head."""
    return getattr(network, network.base_model_prefix)


@contextmanager
def edited_input(module: torch.nn.Module, edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Change what a module is given, for the block."""
    handle = module.register_forward_pre_hook(lambda _, args: (edit(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def captum_layers(
    network: Any, tokens: torch.Tensor, baseline: torch.Tensor, target: int, layers: Sequence[int], steps: int = 20
) -> list[torch.Tensor]:
    """Captum's LayerIntegratedGradients, layer by layer: (position, neuron) per layer. Baseline: other tokens."""
    from captum.attr import LayerIntegratedGradients

    def score(ids: torch.Tensor) -> torch.Tensor:
        return network(ids).logits[:, -1].log_softmax(-1)[:, target]

    found = []
    for layer in layers:
        method = LayerIntegratedGradients(score, neurons_input(network, layer))
        attributed = method.attribute(tokens, baselines=baseline, n_steps=steps, attribute_to_layer_input=True)
        found.append((attributed[0] if isinstance(attributed, tuple) else attributed)[0].detach())
    return found


def lean_layers(
    network: Any, tokens: torch.Tensor, base: torch.Tensor, target: int, layers: Sequence[int], steps: int = 20
) -> list[torch.Tensor]:
    """The same by hand, with logits at the last position only: (position, neuron) per layer. `base` (layer, position, neuron)."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    at = torch.tensor((places + 1) / 2, dtype=base.dtype)[:, None, None]
    weight, found = torch.tensor(weights / 2, dtype=base.dtype)[:, None, None], []
    for layer in layers:
        kept: list[torch.Tensor] = []

        def move(
            value: torch.Tensor, start: torch.Tensor = base[layer], kept: list[torch.Tensor] = kept
        ) -> torch.Tensor:
            kept.append((start + at * (value.detach() - start)).requires_grad_())
            kept.append(value.detach()[0] - start)
            return kept[0]

        with edited_input(neurons_input(network, layer), move):
            hidden = trunk(network)(tokens.expand(steps, -1), use_cache=False).last_hidden_state[:, -1]
        scores = network.lm_head(hidden).log_softmax(-1)[:, target]
        (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
        found.append((weight * gradient).sum(0) * kept[1])
    return found


@torch.no_grad()
def ablate_one_by_one(
    network: Any, tokens: torch.Tensor, target: int, neurons: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Log-probability lost by zeroing each neuron at the last position: one hooked forward pass each."""

    def score() -> float:
        return float(network(tokens).logits[0, -1].log_softmax(-1)[target])

    clean, lost = score(), []
    for layer, neuron in neurons:

        def zero(value: torch.Tensor, neuron: int = neuron) -> torch.Tensor:
            value = value.clone()
            value[:, -1, neuron] = 0
            return value

        with edited_input(neurons_input(network, layer), zero):
            lost.append(clean - score())
    return torch.tensor(lost)


@torch.no_grad()
def transformer_lens_sweep(
    model: Any, source: torch.Tensor, tokens: torch.Tensor, target: int, places: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """TransformerLens' own patching of resid_post at (layer, position) places; log-probability of the target."""
    import pandas as pd
    from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

    _, cache = model.run_with_cache(source)
    return generic_activation_patch(
        model, tokens, cache, lambda logits: logits[0, -1].log_softmax(-1)[target], layer_pos_patch_setter, "resid_post",
        index_df=pd.DataFrame(places, columns=["layer", "pos"]),
    )  # fmt: skip


@torch.no_grad()
def generate_and_score(
    network: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    new_tokens: int,
    batch: int,
) -> tuple[list[str], list[list[float]]]:
    """Greedy answers by transformers' generate, and every candidate's log-probability by a loop over prompts."""
    written: list[str] = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(list(prompts[start : start + batch]), return_tensors="pt", padding=True, padding_side="left")
        output = network.generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        written += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    scores = []
    for prompt, answers in zip(prompts, candidates, strict=True):
        head = tokenizer(prompt).input_ids
        tails = [tokenizer(prompt + answer).input_ids[len(head) :] for answer in answers]
        of_prompt: list[float] = []
        for start in range(0, len(tails), batch):
            of_prompt += _forced(network, tokenizer, head, tails[start : start + batch])
        scores.append(of_prompt)
    return written, scores


def _forced(network: Any, tokenizer: Any, head: list[int], tails: list[list[int]]) -> list[float]:
    longest = max(map(len, tails))
    rows = torch.tensor([[*head, *tail, *[tokenizer.pad_token_id] * (longest - len(tail))] for tail in tails])
    logs = network(rows).logits.log_softmax(-1)
    places = [range(len(head) - 1, len(head) + len(tail) - 1) for tail in tails]
    return [float(logs[row, list(at), tails[row]].sum()) for row, at in enumerate(places)]


@torch.no_grad()
def lens_by_hand(
    network: Any, groups: Sequence[torch.Tensor], wanted: Sequence[Sequence[list[int]]]
) -> list[torch.Tensor]:
    """Probability and rank of the wanted tokens at every layer, last position, prompts batched by equal length."""
    found = []
    for tokens, forms in zip(groups, wanted, strict=True):
        states = torch.stack(trunk(network)(tokens, output_hidden_states=True).hidden_states)[1:, :, -1]
        states[:-1] = trunk(network).norm(states[:-1])  # transformers gives the last one normalised
        for row, tokens_of_row in enumerate(forms):
            log_probs = network.lm_head(states[:, row]).log_softmax(-1)
            own = log_probs[:, tokens_of_row]
            ranks = (log_probs[:, None] > own[:, :, None]).sum(-1) + 1
            found.append(torch.stack([own.exp(), ranks.float()]))
    return found
