"""Whether a hooked model computes what transformers' own model does, compared on a few tokens when it is loaded.

TransformerLens replaces parts of a model by its own. Two rows of a text are run by the plain model before it is wrapped, and
afterwards as the engine runs them: whole, and continued from cached prefixes of different lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues

_TEXT = "The river rises in the mountains, runs past three old towns, and reaches the sea after two hundred and forty miles."
_WIDTH, _NEW = 8, 2
_PREFIXES = (5, 3)
_TOLERANCE, _TOLERANCE_16_BIT, _READOUT_TOLERANCE = 1e-3, 0.1, 1e-2
"""Differences relative to the size of the logits. In bfloat16 two right computations of the demo differ by 0.03."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a plain transformers model says about a short text.

    Attributes:
        tokens: (2, 8) token ids.
        logits: (2, 8, d_vocab) logits, float32.
        architecture: Class of the model.
        coarse: Whether the numbers that it was computed with have 16 bits, or float32's products fewer than theirs.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    architecture: str
    coarse: bool


def reference_of(network: Any, tokenizer: Any) -> Reference:
    """Run a plain transformers model on a short text: one forward pass of two rows of 8 tokens."""
    ids = list(tokenizer(_TEXT).input_ids)
    ids = (ids * -(-2 * _WIDTH // len(ids)))[: 2 * _WIDTH]
    tokens = torch.tensor(ids).view(2, _WIDTH)
    device = torch.device("cpu") if network.device.type == "meta" else network.device
    with torch.no_grad():
        logits = network(input_ids=tokens.to(device), use_cache=False).logits.float().cpu()
    return Reference(
        tokens=tokens, logits=logits, architecture=type(network).__name__, coarse=_is_coarse(network.dtype)
    )


def check_reference(backend: Backend, reference: Reference) -> None:
    """Raise ValueError where the engine's logits are not those of the plain model: two short forward passes.

    What goes wrong only beyond 8 tokens, as in a sliding window, is not seen.
    """
    tokens = reference.tokens.to(backend.device)
    with torch.no_grad():
        hidden, whole = backend.hidden(tokens)
        if not (whole.keys and whole.keys[0].ndim == 4):
            raise ValueError(
                f"this version of TransformerLens keeps no keys and values of a {reference.architecture}, from which answers are "
                "continued; use another version of it"
            )
        rows = [whole.select(torch.tensor([row])).until(length) for row, length in enumerate(_PREFIXES)]
        after = [slice(length, length + _NEW) for length in _PREFIXES]
        new = torch.stack([tokens[row, part] for row, part in enumerate(after)])
        continued, _ = backend.hidden(new, KeyValues.join(rows))
        found = {"whole": _logits(backend, hidden), "continued from a cache": _logits(backend, continued)}
    wanted = torch.stack([reference.logits[row, part] for row, part in enumerate(after)])
    errors = {
        how: _difference(one, other)
        for (how, one), other in zip(found.items(), (reference.logits, wanted), strict=True)
    }
    tolerance = _TOLERANCE_16_BIT if reference.coarse or _is_coarse(backend.unembed.dtype) else _TOLERANCE
    if all(error <= tolerance for error in errors.values()):
        return
    if not all(bool(part.isfinite().all()) for part in (*found.values(), reference.logits)):
        raise ValueError(
            f"the logits of this {reference.architecture} are not finite numbers in {backend.unembed.dtype}; load it with "
            "dtype='bfloat16' or 'float32'"
        )
    check_readout(backend)
    told = " and ".join(f"by {error:.1%} where rows are run {how}" for how, error in errors.items())
    raise ValueError(
        f"TransformerLens' {type(backend.model).__name__} does not compute this {reference.architecture} as transformers does: "
        f"its logits differ {told} ({tolerance:.1%} would be rounding). Use another backend= or version of TransformerLens"
    )


def check_readout(backend: Backend) -> None:
    """Raise ValueError where the engine's logits are not the hooked model's own: its output transform is unknown."""
    token = torch.tensor([[backend.tokenizer.bos_token_id or 0]], device=backend.device)
    with torch.no_grad():
        ours = _logits(backend, backend.hidden(token)[0])
        theirs = backend.model(token, return_type="logits").float().cpu()
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))
    if not error <= _READOUT_TOLERANCE:
        raise ValueError(
            f"the logits that xlmech reads off this model differ from its own by {error:.1%}: its output transform is not "
            "one that xlmech knows (unembedding, bias, soft-cap)"
        )


def _logits(backend: Backend, hidden: torch.Tensor) -> torch.Tensor:
    """(row, position, d_vocab) logits, float32 on the CPU."""
    logits = (hidden.to(backend.unembed.dtype) @ backend.unembed.T).float().cpu()
    if backend.unembed_bias is not None:
        logits += backend.unembed_bias.float().cpu()
    return logits if backend.softcap is None else backend.softcap * (logits / backend.softcap).tanh()


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest relative difference of a row's logits over all its positions, NaN where one is not a number.

    What all logits of a position have in common changes no probability and is left out.
    """
    both = min(found.shape[-1], wanted.shape[-1])
    found, wanted = (
        (part - part.mean(-1, keepdim=True)).flatten(1) for part in (found[..., :both], wanted[..., :both])
    )
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-6)).max())


def _is_coarse(dtype: torch.dtype) -> bool:
    return dtype.itemsize < 4 or torch.get_float32_matmul_precision() != "highest"
