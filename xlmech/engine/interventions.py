"""Interventions as rows of one batch: the heart of the engine.

An intervention at a position changes nothing before it, and one in layer l nothing below l. So a prompt's keys and values
are computed once, only the tokens from the intervention on are run again, and every variant is a row that JOINS the batch
where it starts to differ: at the entry of its layer (at the exit, where the residual stream there is replaced), as a copy
of the prompt's clean row. Rows of layer l never pay for the layers below it. The prompts' clean rows run along, so each
result has its unperturbed counterpart from the same batch.

    rows = [replace("mlp.hook_post", layer, values[layer][None, :, None]) for layer in range(backend.n_layers)]
    states = run_rows(backend, tokens, rows, past=past)     # states.edited[layer]: (prompt, variant, position, d_model)
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


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Variants of one intervention at one hook point.

    Attributes:
        component: Hook point within the layer, e.g. `mlp.hook_post`; a full name, e.g. `hook_embed`, where `layer` is None.
        layer: Layer of the intervention, None for a hook point outside the layers.
        n: Number of variants; each is a row per prompt.
        edit: Takes these rows' (prompt, variant, position, ...) activation, gives the one that replaces it; positions are
            those that are run. Differentiable in whatever it closes over.
        then: Further interventions on the same variants at later layers: as many variants, and no `then` of their own.
    """

    component: str
    layer: int | None
    n: int
    edit: Callable[[torch.Tensor], torch.Tensor]
    then: tuple[Rows, ...] = ()

    def __post_init__(self) -> None:
        for later in self.then:
            if later.n != self.n or later.layer is None or later.layer <= (-1 if self.layer is None else self.layer):
                raise ValueError(
                    f"interventions on the rows of layer {self.layer} need {self.n} variants and a later layer, got "
                    f"{later.n} at layer {later.layer}"
                )
        if self.n < 1:
            raise ValueError(f"rows at {self.component} of layer {self.layer} need at least one variant, got {self.n}")


@dataclass(frozen=True, kw_only=True)
class RowStates:
    """Final hidden states (after the final norm) of a run with rows.

    Attributes:
        clean: (prompt, position, d_model) without any intervention.
        edited: Per group of rows, in the caller's order: (prompt, variant, position, d_model).
    """

    clean: torch.Tensor
    edited: tuple[torch.Tensor, ...]


def replace(component: str, layer: int | None, values: torch.Tensor, *, positions: slice = slice(None)) -> Rows:
    """Replace the activation at `positions` (of those run) by `values`.

    Args:
        component: Hook point.
        layer: Its layer.
        values: (prompt or 1, variant, position or 1, ...), broadcast where 1.
        positions: Slice of the positions that are run.
    """
    return Rows(component=component, layer=layer, n=values.shape[1], edit=_at(positions, lambda _: values))


def replace_where(
    component: str,
    layer: int | None,
    mask: Bool[torch.Tensor, "variant ..."],
    values: torch.Tensor,
    *,
    positions: slice = slice(None),
) -> Rows:
    """Replace a part of the activation by `values`, another part in each variant: single heads, neurons or positions.

    Args:
        component: Hook point.
        layer: Its layer.
        mask: (variant, position or 1, ...) where to replace, broadcast.
        values: (prompt or 1, variant or 1, position or 1, ...), broadcast.
        positions: Slice of the positions that are run.
    """

    def put(old: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.to(old.device), values.to(old.dtype), old)

    return Rows(component=component, layer=layer, n=len(mask), edit=_at(positions, put))


def add(component: str, layer: int | None, values: torch.Tensor, *, positions: slice = slice(None)) -> Rows:
    """Add `values` to the activation at `positions`; shapes as in `replace`."""
    return Rows(component=component, layer=layer, n=values.shape[1], edit=_at(positions, lambda old: old + values))


def interpolate(
    component: str,
    layer: int | None,
    towards: torch.Tensor,
    shares: Float[torch.Tensor, " variant"],
    *,
    positions: slice = slice(None),
) -> Rows:
    """Move the activation by each share of the way to `towards` (broadcast): 0 leaves it, 1 replaces it."""

    def move(old: torch.Tensor) -> torch.Tensor:
        share = shares.to(old.dtype).view(-1, *[1] * (old.ndim - 2))
        return torch.lerp(old, towards.to(old.dtype).expand_as(old), share.expand_as(old))

    return Rows(component=component, layer=layer, n=len(shares), edit=_at(positions, move))


def ablate_units(
    component: str,
    layer: int | None,
    units: Int[torch.Tensor, "variant ..."],
    *,
    to: Float[torch.Tensor, " unit"] | float = 0.0,
    positions: slice = slice(None),
) -> Rows:
    """Set units to `to`, other units as they are: neurons of `mlp.hook_post`, heads of `attn.hook_z`.

    Args:
        component: Hook point; its first dimension after the positions holds the units.
        layer: Its layer.
        units: (variant,) one unit per row, or (variant, k) sets of units.
        to: Value per unit, or one for all.
        positions: Slice of the positions that are run.
    """
    chosen = units[:, None] if units.ndim == 1 else units

    def set_units(old: torch.Tensor) -> torch.Tensor:
        width = old.shape[3]
        mask = torch.zeros(len(chosen), width, dtype=torch.bool, device=old.device).scatter_(
            1, chosen.to(old.device), True
        )
        rest = [1] * (old.ndim - 4)
        value = torch.as_tensor(to, dtype=old.dtype, device=old.device).expand(width).view(width, *rest)
        return torch.where(mask.view(len(chosen), 1, width, *rest), value, old)

    return Rows(component=component, layer=layer, n=len(chosen), edit=_at(positions, set_units))


def run_rows(
    backend: Backend,
    tokens: Int[torch.Tensor, "prompt position"],
    rows: Sequence[Rows],
    *,
    past: KeyValues | None = None,
) -> RowStates:
    """Run prompts and every variant of every intervention on them as one batch.

    Args:
        backend: The model; hooks that are on it already act before the interventions.
        tokens: Tokens from the first one that an intervention touches on; all prompts' equally many.
        rows: Interventions.
        past: Keys and values of what comes before `tokens`, one row per prompt, unpadded.

    Raises:
        ValueError: A hook point that the architecture lacks (names those it has).
    """
    layout = _Layout(backend, rows, len(tokens))
    with backend.hooks(layout.hooks()):
        hidden, _ = backend.hidden(layout.tokens(tokens), None if past is None else layout.spread(past))
    parts: list[torch.Tensor] = [hidden] * len(rows)
    for number, where in layout.slices.items():
        parts[number] = hidden[where].view(len(tokens), rows[number].n, *hidden.shape[1:])
    return RowStates(clean=hidden[: len(tokens)], edited=tuple(parts))


class _Layout:
    """Which rows are in the batch where: clean rows first, then the groups in the order in which they join.

    A place is 2 * layer for a layer's entry and 2 * layer + 1 for its exit; -1 is the embedding, also for rows that the
    model does not let join where they could.
    """

    def __init__(self, backend: Backend, rows: Sequence[Rows], n_prompts: int) -> None:
        self.backend, self.rows, self.n_prompts = backend, rows, n_prompts
        started = sum(group.n for group in rows if group.layer is None)
        self._joining_from = backend.joining_from(n_prompts * (1 + started))
        places = [self._place(group) for group in rows]
        self.order = sorted(range(len(rows)), key=lambda number: places[number])
        self.places = places
        self.slices: dict[int, slice] = {}
        end = n_prompts
        for number in self.order:
            start, end = end, end + n_prompts * rows[number].n
            self.slices[number] = slice(start, end)

    def _place(self, group: Rows) -> int:
        place = -1 if group.layer is None else 2 * group.layer + (group.component == RESID_POST)
        return place if place >= 2 * self._joining_from else -1

    def _clean_rows(self, chosen: Sequence[int]) -> torch.Tensor:
        """The prompt of every row of these groups."""
        prompts = torch.arange(self.n_prompts, device=self.backend.device)
        return torch.cat([prompts.repeat_interleave(self.rows[number].n) for number in chosen])

    def tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        first = [number for number in self.order if self.places[number] < 0]
        return torch.cat([tokens, tokens[self._clean_rows(first).cpu()]]) if first else tokens

    def spread(self, past: KeyValues) -> KeyValues:
        """The prefix as each layer needs it: one row per row that is there."""
        keys, values = [], []
        for layer in range(self.backend.n_layers):
            there = [number for number in self.order if self.places[number] <= 2 * layer]
            n_rows = self.n_prompts + sum(self.n_prompts * self.rows[number].n for number in there)
            if self.n_prompts == 1:  # a view: nothing is copied
                keys.append(past.keys[layer].expand(n_rows, -1, -1, -1))
                values.append(past.values[layer].expand(n_rows, -1, -1, -1))
                continue
            index = torch.arange(self.n_prompts, device=self.backend.device)
            index = torch.cat([index, self._clean_rows(there)]) if there else index
            keys.append(past.keys[layer][index])
            values.append(past.values[layer][index])
        return KeyValues(keys=tuple(keys), values=tuple(values))

    def hooks(self) -> list[tuple[str, HookFunction]]:
        found: list[tuple[str, HookFunction]] = []
        for place in sorted({place for place in self.places if place >= 0}):
            component = RESID_POST if place % 2 else "hook_resid_pre"
            joining = [number for number in self.order if self.places[number] == place]
            found.append((self.backend.hook_name(component, place // 2), self._grow(self._clean_rows(joining))))
        for number in self.order:
            for group in (self.rows[number], *self.rows[number].then):
                found.append((self._name(group), self._edit(group, self.slices[number])))
        return found

    def _name(self, group: Rows) -> str:
        if group.layer is not None:
            return self.backend.hook_name(group.component, group.layer)
        if group.component not in self.backend.points:
            raise ValueError(
                f"this model has no hook point {group.component!r}; give its layer, or one of model.hook_dict"
            )
        return group.component

    def _grow(self, clean: torch.Tensor) -> HookFunction:
        def grow(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            return torch.cat([value, value[clean]])

        return grow

    def _edit(self, group: Rows, where: slice) -> HookFunction:
        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            old = value[where].view(self.n_prompts, group.n, *value.shape[1:])
            new = group.edit(old).to(value.dtype).flatten(0, 1)
            return torch.cat([value[: where.start], new, value[where.stop :]])

        return edit


def _at(positions: slice, new: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Apply `new` at some of the positions only."""

    def edit(old: torch.Tensor) -> torch.Tensor:
        if positions == slice(None):
            return _fit(new(old), old)
        changed = old.clone()
        changed[:, :, positions] = _fit(new(old[:, :, positions]), old[:, :, positions])
        return changed

    return edit


def _fit(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.to(like.dtype).expand_as(like)
