"""Drawing tokens from the model's own distribution, the same ones in whatever order and company prompts are run.

Each token is drawn by inverting the cumulative distribution at one uniform number, which depends on the seed, the prompt's name,
the sample and the step alone: exact, and without a random number or a kept logit per word of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from xlmech.checks import check_list
from xlmech.engine.unembed import token_logits
from xlmech.engine.vocabulary import CHUNK
from xlmech.models.backends import Backend


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn, instead of taking the greedy one.

    Attributes:
        n_samples: Answers per prompt.
        temperature: Divides the logits; 1 is the model's own distribution.
        seed: Of the draws.

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
        """(row, step) uniform numbers for all samples of the prompts with these names, sample by sample.

        A prompt of one name gets the same numbers whatever stands before it or beside it, and in every process.
        """
        keys = [
            (self.seed, _number_of(name), number)
            for name in check_list("name", names)
            for number in range(self.n_samples)
        ]
        return torch.from_numpy(np.stack([np.random.default_rng(key).random(n_steps) for key in keys]))


def _number_of(name: str) -> int:
    """128 bits that are the same in every process, which Python's own hash is not."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")


def drawn_tokens(
    backend: Backend,
    hidden: Float[torch.Tensor, "row d_model"],
    uniform: Float[torch.Tensor, " row"],
    temperature: float,
) -> Int[torch.Tensor, " row"]:
    """(row,) tokens at which each row's cumulative distribution passes its uniform number.

    The vocabulary is walked in chunks, of which only the sums are kept; then, for each row, the one chunk again that its number
    falls into.
    """
    unembed, bias = backend.unembed, backend.unembed_bias

    def logits(rows: torch.Tensor, start: int) -> torch.Tensor:
        part = None if bias is None else bias[start : start + CHUNK]
        found = token_logits(rows, unembed[start : start + CHUNK], bias=part, softcap=backend.softcap)
        return found.double() / temperature

    sums = torch.stack([logits(hidden, start).logsumexp(1) for start in range(0, len(unembed), CHUNK)], dim=1)
    chunk, rest = _passed(sums.softmax(1), uniform)
    tokens = torch.empty_like(chunk)
    for number in sorted(set(chunk.tolist())):
        rows = (chunk == number).nonzero()[:, 0]
        within, _ = _passed(logits(hidden[rows], number * CHUNK).softmax(1), rest[rows])
        tokens[rows] = number * CHUNK + within
    return tokens


def _passed(
    shares: Float[torch.Tensor, "row place"], uniform: Float[torch.Tensor, " row"]
) -> tuple[Int[torch.Tensor, " row"], Float[torch.Tensor, " row"]]:
    """Where each row's cumulative shares pass its number, and how far into that share the number lies, from 0 to 1."""
    reached = shares.cumsum(1)
    place = (reached <= uniform[:, None]).sum(1).clamp_max(shares.shape[1] - 1)
    own, upper = (values.gather(1, place[:, None])[:, 0] for values in (shares, reached))
    return place, (1 - (upper - uniform) / own.clamp_min(torch.finfo(own.dtype).tiny)).clamp(0, 1)
