"""Find the positions, in the whole sequence, of the tokens that a forward pass runs, also with a key/value cache.

A hook sees only the tokens of its own forward pass; in cached generation that is the last one. What came before is taken from the
call of the model: from its cache, and from the attention mask where rows are padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from xlmech.models.backends import Backend


class SequencePositions:
    """Positions of the forward pass that is running: how many are in its cache, and which are padding."""

    _start: int | None = None
    _mask: torch.Tensor | None = None
    _ids: torch.Tensor | None = None

    def of(self, value: torch.Tensor) -> Int[torch.Tensor, "row_or_1 position"]:
        """Return the (row or 1, position) positions in the sequence of a (row, position, ...) activation; padding is -1.

        Raises:
            RuntimeError: No forward pass of the whole model is running, or rows of a padded batch have been copied.
        """
        if self._start is None:
            raise RuntimeError(
                "positions were asked for outside of a forward pass of the whole model; run the model itself, not its layers"
            )
        n_new = value.shape[1]
        if self._mask is not None:
            positions = (self._mask.cumsum(1) * self._mask - 1)[:, -n_new:].to(value.device)
        elif self._ids is not None:
            positions = self._ids[:, -n_new:].to(value.device)
        else:
            return torch.arange(self._start, self._start + n_new, device=value.device)[None]
        if len(positions) not in (1, len(value)):
            raise RuntimeError(
                f"a batch of {len(positions)} padded rows has {len(value)} rows at a later layer, so their positions are not "
                "known; run prompts of equal length together"
            )
        return positions

    def enter(self, *, start: int, mask: Any, ids: Any = None) -> None:
        """Begin a forward pass after `start` positions, with the (row, position) mask of all and given position ids."""
        is_padded = _is_matrix(mask) and not bool(mask.all())
        self._start = start
        self._mask = mask.long() if is_padded else None
        self._ids = ids if _is_matrix(ids) else None

    def leave(self) -> None:
        """End the forward pass."""
        self._start = self._mask = self._ids = None


@contextmanager
def follow_positions(backend: Backend) -> Iterator[SequencePositions]:
    """Follow every forward pass in the block; nothing is left on the model after it."""
    positions = SequencePositions()
    follow = _follow_bridge if backend.name == "bridge" else _follow_hooked
    with follow(backend.model, positions):
        yield positions


@contextmanager
def _follow_bridge(model: Any, positions: SequencePositions) -> Iterator[None]:
    """Follow by hooks of PyTorch around the transformers model below the head, which every way of running passes through."""
    network = model.original_model
    trunk = getattr(network, network.base_model_prefix)

    def enter(_: Any, __: Any, options: dict[str, Any]) -> None:
        past = options.get("past_key_values")
        start = int(past.get_seq_length()) if past is not None else 0
        positions.enter(start=start, mask=options.get("attention_mask"), ids=options.get("position_ids"))

    handles = [trunk.register_forward_pre_hook(enter, with_kwargs=True)]
    try:
        handles.append(trunk.register_forward_hook(lambda *_: positions.leave(), always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _follow_hooked(model: Any, positions: SequencePositions) -> Iterator[None]:
    """Follow by a wrapper of `forward`, one for all open blocks: HookedTransformer's generation bypasses PyTorch's hooks."""
    wrapper = vars(model).get("forward")
    if not isinstance(wrapper, _FollowedForward):
        wrapper = model.forward = _FollowedForward(wrapper, model.forward)
    wrapper.followers.append(positions)
    try:
        yield
    finally:
        wrapper.followers.remove(positions)
        if not wrapper.followers and vars(model).get("forward") is wrapper:
            del model.forward
            if wrapper.instance_forward is not None:
                model.forward = wrapper.instance_forward


class _FollowedForward:
    """A model's `forward`, which tells its followers where each call begins."""

    def __init__(self, instance_forward: Callable[..., Any] | None, forward: Callable[..., Any]) -> None:
        """`instance_forward` is the `forward` set on the model itself, None where it has its class's."""
        self.instance_forward = instance_forward
        self.forward = forward
        self.followers: list[SequencePositions] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        cache, mask = options.get("past_kv_cache"), options.get("attention_mask")
        start = int(cache[0].past_keys.shape[1]) if cache is not None else 0
        past_mask = getattr(cache, "previous_attention_mask", None)
        if mask is not None and start and past_mask is not None and past_mask.shape[1] == start:
            mask = torch.cat([past_mask.to(mask.device), mask], dim=1)
        for positions in self.followers:
            positions.enter(start=start, mask=mask)
        try:
            return self.forward(*args, **options)
        finally:
            for positions in self.followers:
                positions.leave()


def _is_matrix(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2
