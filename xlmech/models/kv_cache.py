"""Keys and values of tokens that have been run, in one form for both kinds of hooked model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys and values of a prefix: one (row, head, position, d_head) tensor per layer each.

    Attributes:
        keys: Per layer.
        values: Per layer.
        padding: (row,) how many of the first positions are padding, None where there is none.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    padding: torch.Tensor | None = None

    @property
    def n_positions(self) -> int:
        """Number of positions, with padding."""
        return self.keys[0].shape[2]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> KeyValues:
        """Apply `function` to every tensor of an unpadded prefix."""
        return KeyValues(keys=tuple(map(function, self.keys)), values=tuple(map(function, self.values)))

    def select(self, rows: torch.Tensor) -> KeyValues:
        """Take the given rows."""
        chosen = self.map(lambda tensor: tensor[rows])
        return chosen if self.padding is None else replace(chosen, padding=self.padding[rows])

    def repeat(self, n_rows: int) -> KeyValues:
        """Repeat the single row of an unpadded prefix, without a copy."""
        return self.map(lambda tensor: tensor.expand(n_rows, -1, -1, -1))

    def until(self, position: int) -> KeyValues:
        """Take the first `position` positions of an unpadded prefix, without a copy."""
        return self.map(lambda tensor: tensor[:, :, :position])

    @classmethod
    def join(cls, prefixes: Sequence[KeyValues]) -> KeyValues:
        """Join the rows of unpadded prefixes of several lengths, padded on the left to the longest."""
        longest = max(prefix.n_positions for prefix in prefixes)

        def pad(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat([torch.nn.functional.pad(one, (0, 0, longest - one.shape[2], 0)) for one in tensors])

        padding = [longest - prefix.n_positions for prefix in prefixes for _ in range(len(prefix.keys[0]))]
        return cls(
            keys=tuple(pad(layer) for layer in zip(*(prefix.keys for prefix in prefixes), strict=True)),
            values=tuple(pad(layer) for layer in zip(*(prefix.values for prefix in prefixes), strict=True)),
            padding=torch.tensor(padding, device=prefixes[0].keys[0].device),
        )

    def mask(self, n_new: int) -> torch.Tensor:
        """Return the (row, position) mask of the prefix and `n_new` tokens after it: 0 for padding, else 1."""
        positions = torch.arange(self.n_positions + n_new, device=self.keys[0].device)
        padding = self.padding if self.padding is not None else positions.new_zeros(len(self.keys[0]))
        return (positions >= padding[:, None]).long()


@dataclass
class EmptyEntry:
    """A layer's empty cache entry for HookedTransformer, whose own cannot take more rows than it was made for.

    Attributes:
        past_keys: (row, position, head, d_head), without positions at first.
        past_values: As the keys.
    """

    past_keys: torch.Tensor
    past_values: torch.Tensor

    def append(self, new_keys: torch.Tensor, new_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep and return the keys and values of the only pass, however many rows have joined."""
        self.past_keys, self.past_values = new_keys, new_values
        return new_keys, new_values
