"""Write on after a patch: what a model says when one activation of its prompt is another prompt's."""

from __future__ import annotations

from typing import Any

import torch

from xlmech.data.pairs import ProbePair
from xlmech.engine.generate import first_line, generate
from xlmech.models.backends import Backend, HookFunction, backend_of
from xlmech.models.prompts import end_tokens
from xlmech.models.tokens import check_budget, encode_probe
from xlmech.options import MAX_NEW_TOKENS
from xlmech.patching.plan import Component, check_pairs, patched_prompt, sweep_of
from xlmech.patching.runs import PatchedPrompt, run_donors


@torch.no_grad()
def patched_answer(
    model: Any,
    pair: ProbePair,
    *,
    layer: int,
    position: int | None = None,
    component: Component = "resid_post",
    head: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> str:
    """Overwrite one layer's activation at one token of the target's prompt by the source's, and write the answer.

    The patch acts while the prompt is read; what is written later reads the patched prompt's keys and values. Its first token is
    the likeliest one of the same cell of `patch_positions`. The text is the model's own: it may hold personal values.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        pair: From `ProbeSet.pairs`.
        layer: Layer that is patched.
        position: Token of the target's prompt, counted from 0; its last one by default.
        component: `resid_pre`, `resid_post`, `attn_out`, `mlp_out`, or `heads` for one head.
        head: For component `heads`: which.
        max_new_tokens: Budget of new tokens.

    Returns:
        What is written up to the end of the answer.

    Raises:
        ValueError: A layer, position or head that there is not, `head` without its component or the other way round, component
            `neurons`, or as `patch_positions`.
    """
    check_pairs([pair])
    backend = backend_of(model)
    if component == "neurons" or (component == "heads") != (head is not None):
        raise ValueError(
            f"component {component!r} and head={head!r} do not fit: component 'heads' takes head=, the others none, and "
            "neurons are patched by patch_languages"
        )
    sweep = sweep_of(backend, component)
    item = patched_prompt(backend, pair, span="all", direction="denoising")
    place = _place(backend, item, layer, position, head)
    encoded = encode_probe(backend, pair.target, languages=(), room=0)
    check_budget(backend, [encoded], max_new_tokens)
    (donor,) = run_donors(backend, sweep.hook, [item], batch_size=1)
    value = donor.values[layer, item.positions.index(place)]
    frame, prompt = pair.target.format, encoded.written_after(backend.tokenizer)
    hook = _overwrite(place, value if head is None else value[head], len(prompt), head)
    with backend.hooks([(backend.hook_name(sweep.hook, layer), hook)]):
        (tokens,) = generate(
            backend, [prompt], max_new_tokens=max_new_tokens, end_tokens=end_tokens(backend, frame),
            lines_end_answers=frame.lines_end_answers,
        )  # fmt: skip
    text = backend.tokenizer.decode(tokens, skip_special_tokens=True)
    return first_line(text) if frame.lines_end_answers else text


def _place(backend: Backend, item: PatchedPrompt, layer: int, position: int | None, head: int | None) -> int:
    """Return the position to patch, after a check of where it is."""
    place = item.positions[-1] if position is None else position
    limits = {"layer": (layer, backend.n_layers), "position": (place, len(item.prompt))}
    if head is not None:
        limits["head"] = (head, int(backend.model.cfg.n_heads))
    for name, (number, n) in limits.items():
        if not 0 <= number < n:
            raise ValueError(f"no {name} {number}; there are 0 to {n - 1}")
    return place


def _overwrite(place: int, value: torch.Tensor, n_prompt: int, head: int | None) -> HookFunction:
    """Make the hook that puts a value in place while the prompt is read, and leaves single new tokens alone."""

    def overwrite(activation: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        if activation.shape[1] != n_prompt:
            return activation
        patched = activation.clone()
        patched[(slice(None), place) if head is None else (slice(None), place, head)] = value.to(activation)
        return patched

    return overwrite
