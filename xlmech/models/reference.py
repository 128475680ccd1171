"""Compare a hooked model with transformers' own model on a few tokens, when it is loaded.

TransformerLens replaces modules of a model by its own. Two rows of a text are run by the plain model before it is wrapped, and
afterwards as the engine runs them: whole, and continued from cached prefixes of different lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues

_TEXT = "The river rises in the mountains, runs past three old towns, and reaches the sea after two hundred and forty miles."
_N_TOKENS = 8
_N_NEW_TOKENS = 2
_PREFIX_LENGTHS = (5, 3)
_TOLERANCE = 1e-3
"""Largest difference relative to the size of the logits."""
_TOLERANCE_16_BIT = 0.1
"""In bfloat16 two right computations of the demo differ by 0.03."""
_UNEMBED_TOLERANCE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a plain transformers model computes for a short text.

    Attributes:
        tokens: (2, 8) token ids.
        logits: (2, 8, d_vocab) logits, float32.
        architecture: Class of the model.
        is_coarse: Whether it was computed in 16 bits, or its float32 products in fewer bits than float32's.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    architecture: str
    is_coarse: bool


def reference_of(network: Any, tokenizer: Any) -> Reference:
    """Run a plain transformers model on a short text: one forward pass of two rows of 8 tokens."""
    ids = list(tokenizer(_TEXT).input_ids)
    ids = (ids * -(-2 * _N_TOKENS // len(ids)))[: 2 * _N_TOKENS]
    tokens = torch.tensor(ids).view(2, _N_TOKENS)
    device = torch.device("cpu") if network.device.type == "meta" else network.device
    with torch.no_grad():
        logits = network(input_ids=tokens.to(device), use_cache=False).logits.float().cpu()
    return Reference(
        tokens=tokens, logits=logits, architecture=type(network).__name__, is_coarse=_is_coarse(network.dtype)
    )


def check_reference(backend: Backend, reference: Reference) -> None:
    """Raise ValueError where the engine's logits are not those of the plain model: two short forward passes.

    What goes wrong only beyond 8 tokens, as in a sliding window, is not seen.
    """
    tokens = reference.tokens.to(backend.device)
    with torch.no_grad():
        hidden, past = backend.hidden(tokens)
        if len(past.keys) != backend.n_layers or any(keys is None or keys.ndim != 4 for keys in past.keys):
            raise ValueError(
                f"TransformerLens {version('transformer-lens')} with transformers {version('transformers')} keeps no keys and "
                f"values of every layer of a {reference.architecture}, from which answers are continued; use the versions that "
                "xlmech asks for, and a model with attention in every layer"
            )
        prefixes = [past.select(torch.tensor([row])).until(length) for row, length in enumerate(_PREFIX_LENGTHS)]
        spans = [slice(length, length + _N_NEW_TOKENS) for length in _PREFIX_LENGTHS]
        new_tokens = torch.stack([tokens[row, span] for row, span in enumerate(spans)])
        continued, _ = backend.hidden(new_tokens, KeyValues.join(prefixes))
        whole_logits, continued_logits = _logits(backend, hidden), _logits(backend, continued)
    expected = torch.stack([reference.logits[row, span] for row, span in enumerate(spans)])
    errors = {
        "whole": _difference(whole_logits, reference.logits),
        "continued from a cache": _difference(continued_logits, expected),
    }
    tolerance = _TOLERANCE_16_BIT if reference.is_coarse or _is_coarse(backend.unembed.dtype) else _TOLERANCE
    if all(error <= tolerance for error in errors.values()):
        check_unembedding(backend)
        return
    if not all(bool(logits.isfinite().all()) for logits in (whole_logits, continued_logits, reference.logits)):
        raise ValueError(
            f"the logits of this {reference.architecture} are not finite numbers in {backend.unembed.dtype}; load it with "
            "dtype='bfloat16' or 'float32'"
        )
    check_unembedding(backend)
    differences = " and ".join(f"by {error:.1%} where rows are run {how}" for how, error in errors.items())
    raise ValueError(
        f"TransformerLens' {type(backend.model).__name__} does not compute this {reference.architecture} as transformers does: "
        f"its logits differ {differences} ({tolerance:.1%} would be rounding). Use another backend= or version of TransformerLens"
    )


def check_unembedding(backend: Backend) -> None:
    """Raise ValueError where the engine's logits of one token, or those of the lens's end, are not the hooked model's own."""
    if not hasattr(backend.model, "ln_final"):
        raise ValueError(
            "this model has no norm after its last layer, or one that TransformerLens does not know, so that no layer could be "
            "read as the last one is; xlmech reads models with a final norm"
        )
    token, streams = torch.tensor([[backend.tokenizer.bos_token_id or 0]], device=backend.device), []
    last = (backend.hook_name("hook_resid_post", backend.n_layers - 1), lambda stream, hook: streams.append(stream))  # noqa: ARG005
    with torch.no_grad():
        with backend.hooks([last]):
            hidden, _ = backend.hidden(token)
        expected = backend.model(token, return_type="logits").float().cpu()
        error = _error(_logits(backend, hidden), expected)
        lens_error = _error(_logits(backend, backend.final_norm(streams[0].to(hidden.device))), expected)
    if not error <= _UNEMBED_TOLERANCE:
        raise ValueError(
            f"the logits that xlmech computes for this model differ from its own by {error:.1%}: its output transform is not "
            "one that xlmech knows (unembedding, bias, scale, soft-cap)"
        )
    if not lens_error <= _UNEMBED_TOLERANCE:
        raise ValueError(
            "the last residual stream of this model, through its final norm and unembedding, differs from its logits by "
            f"{lens_error:.1%}: something unknown to xlmech stands between them, so that the logit lens would be wrong"
        )


def _error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max().clamp_min(1))


def _logits(backend: Backend, hidden: torch.Tensor) -> torch.Tensor:
    """Compute plain (row, position, d_vocab) logits, float32 on the CPU."""
    logits = (hidden.to(backend.unembed.dtype) @ backend.unembed.T).float().cpu()
    if backend.unembed_bias is not None:
        logits += backend.unembed_bias.float().cpu()
    return logits if backend.softcap is None else backend.softcap * (logits / backend.softcap).tanh()


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative difference of a row's logits over all its positions, NaN where one is not a number.

    What all logits of a position have in common changes no probability and is left out.
    """
    d_vocab = min(logits.shape[-1], expected.shape[-1])
    logits, expected = (
        (part - part.mean(-1, keepdim=True)).flatten(1) for part in (logits[..., :d_vocab], expected[..., :d_vocab])
    )
    return float(((logits - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-6)).max())


def _is_coarse(dtype: torch.dtype) -> bool:
    return dtype.itemsize < 4 or torch.get_float32_matmul_precision() != "highest"
