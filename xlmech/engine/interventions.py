"""Interventions as rows of one batch.

An intervention at a position changes nothing before it, and one in layer l nothing below l. So a prompt's keys and values
are computed once, only the tokens from the intervention on are run again, and every variant is a row that joins the batch
where it starts to differ: at the entry of its layer (at the exit, where the residual stream there is replaced), as a copy
of the prompt's clean row. Variants of layer l are not run below it. The prompts' clean rows run along, so each variant has its
unperturbed counterpart from the same batch.

`replace`, `replace_where`, `add`, `interpolate` and `replace_units` make interventions. Each takes the hook point, its layer
(None outside the layers), what to do, and a slice of the positions that are run; tensors are broadcast.

    edits = [replace("mlp.hook_post", layer, values[layer][None, :, None]) for layer in range(backend.n_layers)]
    states = run_interventions(backend, tokens, edits, past=past)
    states.edited[layer]  # (prompt, variant, position, d_model)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from xlmech.models.backends import Backend, HookFunction
from xlmech.models.kv_cache import KeyValues

RESID_POST = "hook_resid_post"
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """An edit of the activation at one hook point, in one or several variants.

    Attributes:
        component: Hook point within the layer, e.g. `mlp.hook_post`; a full name, e.g. `hook_embed`, where `layer` is None.
        layer: Layer of the hook point, None outside the layers.
        n_variants: Number of variants; each is a row per prompt.
        edit: Maps the (prompt, variant, position, ...) activation of these rows, at the positions that are run, to its
            replacement. Differentiable in the tensors that it closes over.
        later: Interventions on the same variants at later layers, without a `later` of their own.

    Raises:
        ValueError: No variants, or a later intervention with another number of variants or not at a later layer.
    """

    component: str
    layer: int | None
    n_variants: int
    edit: Edit
    later: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        start_layer = -1 if self.layer is None else self.layer
        for later in self.later:
            if later.n_variants != self.n_variants or later.layer is None or later.layer <= start_layer:
                raise ValueError(
                    f"interventions on the rows of layer {self.layer} need {self.n_variants} variants and a later layer, got "
                    f"{later.n_variants} at layer {later.layer}"
                )
        if self.n_variants < 1:
            raise ValueError(
                f"rows at {self.component} of layer {self.layer} need at least one variant, got {self.n_variants}"
            )


@dataclass(frozen=True, kw_only=True)
class InterventionStates:
    """Final hidden states (after the final norm) of a run with interventions.

    Attributes:
        clean: (prompt, position, d_model) without any intervention.
        edited: Per intervention, in the caller's order: (prompt, variant, position, d_model).
    """

    clean: torch.Tensor
    edited: tuple[torch.Tensor, ...]


def replace(component: str, layer: int | None, values: torch.Tensor, *, positions: slice = slice(None)) -> Intervention:
    """Replace the activation by (prompt or 1, variant, position or 1, ...) `values`."""
    return Intervention(
        component=component, layer=layer, n_variants=values.shape[1], edit=_at(positions, lambda _: values)
    )


def replace_where(
    component: str,
    layer: int | None,
    mask: Bool[torch.Tensor, "variant ..."],
    values: torch.Tensor,
    *,
    positions: slice = slice(None),
) -> Intervention:
    """Replace the masked part of the activation by (prompt or 1, variant or 1, position or 1, ...) `values`.

    `mask` is (variant, position or 1, ...): other heads, neurons or positions in each variant.
    """

    def masked(old: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.to(old.device), values.to(old.dtype), old)

    return Intervention(component=component, layer=layer, n_variants=len(mask), edit=_at(positions, masked))


def add(component: str, layer: int | None, values: torch.Tensor, *, positions: slice = slice(None)) -> Intervention:
    """Add (prompt or 1, variant, position or 1, ...) `values` to the activation."""
    return Intervention(
        component=component, layer=layer, n_variants=values.shape[1], edit=_at(positions, lambda old: old + values)
    )


def interpolate(
    component: str,
    layer: int | None,
    towards: torch.Tensor,
    shares: Float[torch.Tensor, " variant"],
    *,
    positions: slice = slice(None),
) -> Intervention:
    """Move the activation by each variant's share of the way to `towards`: 0 leaves it, 1 replaces it."""

    def move(old: torch.Tensor) -> torch.Tensor:
        weights = shares.to(old.dtype).view(-1, *[1] * (old.ndim - 2))
        return torch.lerp(old, towards.to(old.dtype).expand_as(old), weights.expand_as(old))

    return Intervention(component=component, layer=layer, n_variants=len(shares), edit=_at(positions, move))


def replace_units(
    component: str,
    layer: int | None,
    units: Int[torch.Tensor, "variant ..."],
    *,
    to: Float[torch.Tensor, " unit"] | float = 0.0,
    positions: slice = slice(None),
) -> Intervention:
    """Replace (variant,) single units or (variant, k) sets of units by `to`, a value per unit or one for all.

    Units are numbered in the first dimension after the positions: neurons of `mlp.hook_post`, heads of `attn.hook_z`.
    """
    chosen = units[:, None] if units.ndim == 1 else units

    def set_units(old: torch.Tensor) -> torch.Tensor:
        width, trailing = old.shape[3], [1] * (old.ndim - 4)
        mask = torch.zeros(len(chosen), width, dtype=torch.bool, device=old.device)
        mask.scatter_(1, chosen.to(old.device), True)
        value = torch.as_tensor(to, dtype=old.dtype, device=old.device).expand(width).view(width, *trailing)
        return torch.where(mask.view(len(chosen), 1, width, *trailing), value, old)

    return Intervention(component=component, layer=layer, n_variants=len(chosen), edit=_at(positions, set_units))


def _at(positions: slice, new: Edit) -> Edit:
    """Restrict an edit to some positions; what it returns is broadcast."""

    def edit(old: torch.Tensor) -> torch.Tensor:
        part = old[:, :, positions]
        edited = new(part).to(old.dtype).expand_as(part)
        if positions == slice(None):
            return edited
        changed = old.clone()
        changed[:, :, positions] = edited
        return changed

    return edit


def run_interventions(
    backend: Backend,
    tokens: Int[torch.Tensor, "prompt position"],
    interventions: Sequence[Intervention],
    *,
    past: KeyValues | None = None,
) -> InterventionStates:
    """Run prompts and every variant of every intervention on them as one batch.

    Args:
        backend: The model; active hooks apply before the interventions.
        tokens: Tokens from the first one that an intervention touches on; all prompts' equally many.
        interventions: Edits to run.
        past: Keys and values of the positions before `tokens`, one row per prompt, unpadded.

    Raises:
        ValueError: A hook point that the architecture lacks (names those it has).
    """
    batch = _Batch(backend, interventions, len(tokens))
    with backend.hooks(batch.hooks()):
        hidden, _ = backend.hidden(batch.first_tokens(tokens), None if past is None else batch.expand(past))
    edited = [
        hidden[rows].view(len(tokens), intervention.n_variants, *hidden.shape[1:])
        for intervention, rows in zip(interventions, batch.slices, strict=True)
    ]
    return InterventionStates(clean=hidden[: len(tokens)], edited=tuple(edited))


class _Batch:
    """Rows of the batch: the clean ones first, then each intervention's in the order in which they join.

    `joins[i]` says where the rows of intervention i join: 2 * layer at a layer's entry, 2 * layer + 1 at its exit, -1 at the
    embedding (also where the model does not let rows join later). `slices[i]` are its rows.
    """

    def __init__(self, backend: Backend, interventions: Sequence[Intervention], n_prompts: int) -> None:
        self.backend = backend
        self.interventions = interventions
        self.n_prompts = n_prompts
        n_embedded = sum(item.n_variants for item in interventions if item.layer is None)
        first_layer = backend.first_joinable_layer(n_prompts * (1 + n_embedded))
        joins = [
            -1 if item.layer is None else 2 * item.layer + (item.component == RESID_POST) for item in interventions
        ]
        self.joins = [join if join >= 2 * first_layer else -1 for join in joins]
        self.order = sorted(range(len(joins)), key=self.joins.__getitem__)
        self.slices = [slice(0)] * len(joins)
        stop = n_prompts
        for number in self.order:
            start, stop = stop, stop + n_prompts * interventions[number].n_variants
            self.slices[number] = slice(start, stop)

    def first_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the rows that join at the embedding."""
        return tokens[self._prompts(range(-1, 0)).cpu()]

    def expand(self, past: KeyValues) -> KeyValues:
        """Repeat the prompts' keys and values for the rows of each layer."""
        keys, values = [], []
        for layer in range(self.backend.n_layers):
            prompts = self._prompts(range(-1, 2 * layer + 1))
            if self.n_prompts == 1:  # a view: nothing is copied
                keys.append(past.keys[layer].expand(len(prompts), -1, -1, -1))
                values.append(past.values[layer].expand(len(prompts), -1, -1, -1))
            else:
                keys.append(past.keys[layer][prompts])
                values.append(past.values[layer][prompts])
        return KeyValues(keys=tuple(keys), values=tuple(values))

    def hooks(self) -> list[tuple[str, HookFunction]]:
        """Return the hooks that let rows join, then those that edit them."""
        hooks: list[tuple[str, HookFunction]] = []
        for join in sorted({join for join in self.joins if join >= 0}):
            name = self.backend.hook_name(RESID_POST if join % 2 else "hook_resid_pre", join // 2)
            joining = self._prompts(range(join, join + 1))[self.n_prompts :]
            hooks.append((name, _joining_hook(joining)))
        for number in self.order:
            for intervention in (self.interventions[number], *self.interventions[number].later):
                hooks.append((self._hook_name(intervention), self._editing_hook(intervention, self.slices[number])))
        return hooks

    def _prompts(self, joins: range) -> torch.Tensor:
        """Number the (row,) prompts of the clean rows and of the rows that join within `joins`."""
        prompts = torch.arange(self.n_prompts, device=self.backend.device)
        variants = [self.interventions[number].n_variants for number in self.order if self.joins[number] in joins]
        return torch.cat([prompts, *(prompts.repeat_interleave(n) for n in variants)])

    def _hook_name(self, intervention: Intervention) -> str:
        component = intervention.component
        if intervention.layer is not None:
            return self.backend.hook_name(component, intervention.layer)
        if component not in self.backend.points:
            raise ValueError(f"this model has no hook point {component!r}; give its layer, or one of model.hook_dict")
        return component

    def _editing_hook(self, intervention: Intervention, rows: slice) -> HookFunction:
        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            old = value[rows].view(self.n_prompts, intervention.n_variants, *value.shape[1:])
            new = intervention.edit(old).to(value.dtype).flatten(0, 1)
            return torch.cat([value[: rows.start], new, value[rows.stop :]])

        return edit


def _joining_hook(prompts: torch.Tensor) -> HookFunction:
    def join(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        return torch.cat([value, value[prompts]])

    return join
