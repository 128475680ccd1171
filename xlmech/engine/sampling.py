"""Draw tokens from the model's own distribution, the same ones in whatever order and batches prompts are run.

Each token is drawn by inverting the cumulative distribution at one uniform number, which depends on the seed, the prompt's name,
the sample and the step alone. That is exact, and needs no random number or stored logit per token of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from xlmech.checks import check_list
from xlmech.engine.unembed import CHUNK, token_logits
from xlmech.models.backends import Backend


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of drawing answers instead of taking the greedy one.

    Attributes:
        n_samples: Answers per prompt.
        temperature: Divides the logits; 1 is the model's own distribution.
        seed: Seed of the draws.

    Raises:
        ValueError: No samples, a temperature that is not positive, or a negative seed.
    """

    n_samples: int = 20
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < 1 or self.seed < 0:
            raise ValueError(
                f"n_samples must be at least 1 and seed not negative, got {self.n_samples} and {self.seed}"
            )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature}; greedy answers need no sampling")

    def uniform(self, names: Sequence[str], n_steps: int) -> Float[torch.Tensor, "row step"]:
        """Draw (row, step) uniform numbers for all samples of the prompts with these names, prompt by prompt.

        A prompt of one name gets the same numbers in every batch and every process.
        """
        # Python's own hash differs between processes.
        digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in check_list("name", names)]
        keys = [
            (self.seed, int.from_bytes(digest, "big"), sample) for digest in digests for sample in range(self.n_samples)
        ]
        return torch.from_numpy(np.stack([np.random.default_rng(key).random(n_steps) for key in keys]))


def drawn_tokens(
    backend: Backend,
    hidden: Float[torch.Tensor, "row d_model"],
    uniform: Float[torch.Tensor, " row"],
    temperature: float,
) -> Int[torch.Tensor, " row"]:
    """Find the (row,) tokens at which each row's cumulative distribution passes its uniform number.

    The vocabulary is taken in chunks, of which only the sums are kept; then each row's chunk with its number is computed again.
    """
    unembed, bias = backend.unembed, backend.unembed_bias

    def logits(rows: torch.Tensor, start: int) -> torch.Tensor:
        part = None if bias is None else bias[start : start + CHUNK]
        scores = token_logits(rows, unembed[start : start + CHUNK], bias=part, softcap=backend.softcap)
        return scores.double() / temperature

    sums = torch.stack([logits(hidden, start).logsumexp(1) for start in range(0, len(unembed), CHUNK)], dim=1)
    chunks, within = _invert(sums.softmax(1), uniform)
    tokens = torch.empty_like(chunks)
    for chunk in sorted(set(chunks.tolist())):
        rows = (chunks == chunk).nonzero()[:, 0]
        offsets, _ = _invert(logits(hidden[rows], chunk * CHUNK).softmax(1), within[rows])
        tokens[rows] = chunk * CHUNK + offsets
    return tokens


def _invert(
    probs: Float[torch.Tensor, "row category"], uniform: Float[torch.Tensor, " row"]
) -> tuple[Int[torch.Tensor, " row"], Float[torch.Tensor, " row"]]:
    """Find where each row's cumulative probability passes its number, and how far (0 to 1) into that category the number lies."""
    cumulative = probs.cumsum(1)
    category = (cumulative <= uniform[:, None]).sum(1).clamp_max(probs.shape[1] - 1)
    prob, upper = (values.gather(1, category[:, None])[:, 0] for values in (probs, cumulative))
    return category, (1 - (upper - uniform) / prob.clamp_min(torch.finfo(prob.dtype).tiny)).clamp(0, 1)
