"""Where in the whole sequence the tokens stand that are being run, also when a key/value cache holds those before them.

A hook sees only the tokens of its own forward pass; in cached generation that is the last one. What came before is read off the
call: from the cache, and from the attention mask where rows are padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int

from xlmech.models.backends import Backend


class Places:
    """The forward pass that runs now: how many positions are in its cache, and which are padding."""

    def __init__(self) -> None:
        self._start: int | None = None
        self._mask: torch.Tensor | None = None
        self._ids: torch.Tensor | None = None

    def of(self, value: torch.Tensor) -> Int[torch.Tensor, "row_or_1 position"]:
        """(row or 1, position) place in its sequence of each position of a (row, position, ...) activation; padding is -1.

        Raises:
            RuntimeError: No forward pass that could be followed is running, or rows of a padded batch have been copied.
        """
        if self._start is None:
            raise RuntimeError(
                "positions were asked for outside of a forward pass of the whole model; run the model itself, not its layers"
            )
        n_new = value.shape[1]
        if self._mask is not None:
            padded = (self._mask.cumsum(1) * self._mask - 1)[:, -n_new:].to(value.device)
        elif self._ids is not None:
            padded = self._ids[:, -n_new:].to(value.device)
        else:
            return torch.arange(self._start, self._start + n_new, device=value.device)[None]
        if len(padded) not in (1, len(value)):
            raise RuntimeError(
                f"a batch of {len(padded)} padded rows has {len(value)} rows at a later layer, so their positions are not known; "
                "run prompts of equal length together"
            )
        return padded

    def enter(self, *, start: int, mask: torch.Tensor | None, ids: torch.Tensor | None = None) -> None:
        """A forward pass begins: positions before it, the (row, position) mask of all of them, and given position ids."""
        padded = mask is not None and mask.ndim == 2 and not bool(mask.all())
        self._start, self._mask, self._ids = start, mask.long() if padded and mask is not None else None, ids

    def leave(self) -> None:
        """The forward pass has ended."""
        self._start = self._mask = self._ids = None


@contextmanager
def following(backend: Backend) -> Iterator[Places]:
    """`Places` of every forward pass in the block; nothing is left on the model after it."""
    places = Places()
    follow = _following_bridge if backend.name == "bridge" else _following_hooked
    with follow(backend.model, places):
        yield places


@contextmanager
def _following_bridge(model: Any, places: Places) -> Iterator[None]:
    """By hooks of PyTorch around the transformers model below the head, which every way of running passes through."""
    network = model.original_model
    trunk = getattr(network, network.base_model_prefix)

    def before(_: Any, __: Any, given: dict[str, Any]) -> None:
        past = given.get("past_key_values")
        start = int(past.get_seq_length()) if past is not None else 0
        places.enter(start=start, mask=_tensor(given.get("attention_mask")), ids=_tensor(given.get("position_ids")))

    handles = [trunk.register_forward_pre_hook(before, with_kwargs=True)]
    try:
        handles.append(trunk.register_forward_hook(lambda *_: places.leave(), always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _following_hooked(model: Any, places: Places) -> Iterator[None]:
    """HookedTransformer's generation calls `forward` itself, past PyTorch's hooks: it is wrapped, once for all open blocks."""
    if not isinstance(vars(model).get("forward"), _Followed):
        model.forward = _Followed(vars(model).get("forward"), model.forward)
    followed: _Followed = model.forward
    followed.followers.append(places)
    try:
        yield
    finally:
        followed.followers.remove(places)
        if not followed.followers and vars(model).get("forward") is followed:
            del model.forward
            if followed.own is not None:
                model.forward = followed.own


class _Followed:
    """A model's `forward`, which tells its followers where each call stands."""

    def __init__(self, own: Callable[..., Any] | None, forward: Callable[..., Any]) -> None:
        """`own` is what the model itself held as `forward`, None where it has its class's."""
        self.own, self.forward, self.followers = own, forward, list[Places]()

    def __call__(self, *given: Any, **named: Any) -> Any:
        cache, mask = named.get("past_kv_cache"), named.get("attention_mask")
        start = int(cache[0].past_keys.shape[1]) if cache is not None else 0
        seen = getattr(cache, "previous_attention_mask", None)
        if mask is not None and seen is not None and seen.shape[1] == start:
            mask = torch.cat([seen.to(mask.device), mask], dim=1) if start else mask
        for places in self.followers:
            places.enter(start=start, mask=mask)
        try:
            return self.forward(*given, **named)
        finally:
            for places in self.followers:
                places.leave()


def _tensor(value: Any) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) and value.ndim == 2 else None
