"""One chunk of the vocabulary at a time: the pieces of which `readout` and `nearby` are made.

A vocabulary of 262,144 makes logits the dearest tensor of a small model: 1 MB per position in float32, written,
exponentiated and read again. A chunk's stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from xlmech.models.onednn import by_onednn, product

CHUNK = 8192
ALIGNED = 16
"""Rows are filled up to a multiple of this: matrix products of odd widths run at half the speed."""
ROUNDINGS = 8
"""How much of the probability may be wrong or left out, in roundings of the dtype; a logit's own rounding is of this size."""


def chunks_of(
    unembed: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """First token, (token, d_model) unembedding and (token,) bias of each chunk of the vocabulary."""
    for start in range(0, len(unembed), CHUNK):
        yield start, unembed[start : start + CHUNK], None if bias is None else bias[start : start + CHUNK]


def accumulator(hidden: torch.Tensor) -> torch.dtype:
    """At least float32, whatever the weights' dtype."""
    return torch.promote_types(hidden.dtype, torch.float32)


def columns_of(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(d_model, row) for products with the unembedding, rows filled up with zeros; laid out as `scores` reads it fastest."""
    fill = -len(hidden) % ALIGNED if len(hidden) > ALIGNED // 2 else 0
    rows = torch.nn.functional.pad(hidden, (0, 0, 0, fill)).to(dtype)
    return rows.contiguous().T if by_onednn(rows) else rows.T.contiguous()


def scores(weight: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """(token, row) scores of one chunk before the soft-cap; this orientation is the fast one for tall chunks."""
    if by_onednn(columns) and not (torch.is_grad_enabled() and (weight.requires_grad or columns.requires_grad)):
        products = product(weight, columns.T).to(dtype)
    else:
        products = (weight @ columns).to(dtype)
    return products if bias is None else products + bias[:, None]


def mixtures(weight: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(d_model, row) sums of one chunk's unembeddings, each times its (token, row) share; no gradient."""
    if by_onednn(shares):
        return product(shares.T, weight.T).T
    return weight.T @ shares


def cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """The logits as the soft-cap c lets them out: c * tanh(logits / c)."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def slope_of(capped: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Derivative of `cap`, from its result."""
    if softcap is None:
        return torch.ones((), dtype=capped.dtype, device=capped.device).expand_as(capped)
    return 1 - (capped / softcap) ** 2


def bias_of(bias: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor | float:
    """Bias of each token, in the shape of `tokens`; 0 without one."""
    return 0.0 if bias is None else bias[tokens]
