"""What gates are learned from: forced answers and neutral texts, their losses under gates, and the gradient by these.

All is written by a gate's weight, 1 minus the factor of the neuron's activation: 0 leaves a neuron as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch.nn.functional import logsigmoid, softplus

from xlmech.data.probes import Probe
from xlmech.engine.batching import run_in_batches
from xlmech.engine.log_odds import TokenDistributions, token_log_odds
from xlmech.metrics.attribution import of_log_prob
from xlmech.models.backends import NEURON_HOOK, Backend
from xlmech.models.tokens import EncodedProbe, encode_probe, encode_prompt, n_special
from xlmech.options import GateOptions

Kind = Literal["private", "public", "kl"]
KINDS: tuple[Kind, ...] = ("private", "public", "kl")
LEAST_TEXT = 3
"""Least number of a neutral text's tokens, special ones excluded."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Sample:
    """Tokens that are run, and positions whose predictions count.

    Attributes:
        id: The probe's id, or the text's number.
        record: The record's id, "" for a text.
        kind: Which loss it has: `private` and `public` answers, or the `kl` of a text.
        tokens: (position,) what is run: a prompt and its answer but for the last token, or a text.
        first: First position that counts; all after it do too.
        targets: Token predicted at each position that counts; -1 for texts, where the whole distribution counts.
        reference: What the intact model predicts there, for texts.
    """

    id: str
    record: str = ""
    kind: Kind
    tokens: tuple[int, ...]
    first: int
    targets: tuple[int, ...]
    reference: TokenDistributions | None = None


def answer_samples(encoded: EncodedProbe, kind: Kind) -> list[Sample]:
    """Force a probe's answer in each of its different forms that are encoded."""
    by_form = {encoded.probe.answers[code]: tokens for code, tokens in encoded.answers.items()}
    return [
        Sample(
            id=encoded.id,
            record=encoded.probe.record.id,
            kind=kind,
            tokens=(*encoded.prompt, *tokens[:-1]),
            first=len(encoded.prompt) - 1,
            targets=tuple(tokens),
        )
        for tokens in by_form.values()
    ]


def encoded_answer(backend: Backend, probe: Probe, trained: str, max_answer_tokens: int | None) -> EncodedProbe:
    """Encode a probe with its answer's forms in the query language and, if it is known, the training language."""
    codes = dict.fromkeys(code for code in (probe.query_language, trained) if code in probe.answers)
    return encode_probe(backend, probe, languages=codes, max_answer_tokens=max_answer_tokens)


def text_samples(backend: Backend, texts: Sequence[str]) -> list[Sample]:
    """Encode neutral texts, which have no reference yet.

    Raises:
        ValueError: A text of fewer than `LEAST_TEXT` tokens, or one that the model cannot take (names its number).
    """
    first, samples = n_special(backend), []
    for number, text in enumerate(texts):
        tokens = encode_prompt(backend, text, what=f"neutral text {number}")
        if len(tokens) - first < LEAST_TEXT:
            raise ValueError(
                f"neutral text {number} has {len(tokens) - first} tokens, and at least {LEAST_TEXT} are needed to see a change "
                "in it; give sentences"
            )
        targets = (-1,) * (len(tokens) - first)
        samples.append(
            Sample(id=f"neutral text {number}", kind="kl", tokens=tuple(tokens), first=first, targets=targets)
        )
    return samples


def answer_log_odds(log_odds: Float[torch.Tensor, " token"]) -> Float[torch.Tensor, ""]:
    """Compute log p - log(1 - p) of an answer, p the product of its tokens' probabilities, from their log-odds."""
    return of_log_prob(logsigmoid(log_odds).sum(), "log_odds")


class GatedModel:
    """A model under gates: what its predictions are, and how the loss changes with the gates.

    Args:
        backend: The model; hooks that are on it stay active.
        options: Weights, margin, precision and batch size.
    """

    def __init__(self, backend: Backend, options: GateOptions) -> None:
        self._backend, self._options = backend, options
        self._is_autocast = options.precision == "bfloat16" and backend.unembed.dtype == torch.float32
        # A copy in bfloat16 halves the time of the largest product, that with the vocabulary.
        self._unembed = backend.unembed.detach()
        if self._is_autocast:
            self._unembed = self._unembed.bfloat16()
        self._batch_size = options.batch_size

    @torch.no_grad()
    def log_odds(self, samples: Sequence[Sample], progress: str = "") -> list[torch.Tensor]:
        """Compute the (token,) log-odds of each answer's tokens in the intact model, on the CPU."""
        found: list[torch.Tensor] = [torch.empty(0)] * len(samples)

        def work(indices: list[int]) -> None:
            batch = [samples[index] for index in indices]
            log_odds = self._log_odds(self._states(batch), batch).cpu()
            parts = torch.split(log_odds, [len(sample.targets) for sample in batch])
            for index, part in zip(indices, parts, strict=True):
                found[index] = part

        self._run(samples, work, progress)
        return found

    @torch.no_grad()
    def with_references(self, texts: Sequence[Sample]) -> list[Sample]:
        """Copy texts with what the intact model predicts in them, on the model's device."""
        found = list(texts)

        def work(indices: list[int]) -> None:
            batch = [texts[index] for index in indices]
            predicted = TokenDistributions.of(self._states(batch), self._unembed, **self._backend.unembed_options)
            for index, part in zip(indices, predicted.split([len(sample.targets) for sample in batch]), strict=True):
                found[index] = replace(texts[index], reference=part)

        self._run(texts, work)
        return found

    def losses(
        self, samples: Sequence[Sample], weights: Float[torch.Tensor, "layer neuron"]
    ) -> tuple[Float[torch.Tensor, " sample"], Float[torch.Tensor, "layer neuron"]]:
        """Compute the (sample,) losses under gates, and the gradient of their weighted sum by the gates' weights.

        A loss is softplus(z + margin) for an answer to suppress, z its log-odds as a whole; softplus(margin - z) for one to keep;
        and for a text the mean KL(intact, gated) over its positions. The gradient is that of the sum of the means over the three
        kinds, each times its weight.
        """
        shares = self._shares(samples)
        losses = torch.zeros(len(samples), device=weights.device)
        gradient = torch.zeros_like(weights)
        leaf = weights.detach().requires_grad_()

        def work(indices: list[int]) -> None:
            batch = [samples[index] for index in indices]
            with torch.enable_grad(), self._backend.hooks(self._hooks(leaf)):
                of_batch = self._losses_of(batch)
                (slopes,) = torch.autograd.grad((of_batch * shares[indices].to(of_batch)).sum(), leaf)
            gradient.add_(slopes.to(gradient))
            losses[indices] = of_batch.detach().to(losses)

        self._run(samples, work)
        return losses, gradient

    def _shares(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the (sample,) factors of the losses in the sum."""
        options = self._options
        weights: Mapping[Kind, float] = {
            "private": options.private_weight,
            "public": options.public_weight,
            "kl": options.neutral_weight,
        }
        kinds = [sample.kind for sample in samples]
        return torch.tensor([weights[kind] / kinds.count(kind) for kind in kinds], dtype=torch.float64)

    def _run(self, samples: Sequence[Sample], work: Callable[[list[int]], None], progress: str = "") -> None:
        """Do `work` on batches of samples of similar length; a batch size that did not fit the memory is not tried again."""
        largest = 0

        def counted(indices: list[int]) -> None:
            nonlocal largest
            work(indices)
            largest = max(largest, len(indices))

        run_in_batches(
            len(samples),
            counted,
            key=lambda index: len(samples[index].tokens),
            batch_size=self._batch_size,
            progress=progress,
        )
        if largest < min(self._batch_size, len(samples)):
            self._batch_size = largest

    def _states(self, batch: Sequence[Sample]) -> Float[torch.Tensor, "token d_model"]:
        """Compute the final states at the positions that count, sample by sample; padding is right, where no token sees it."""
        longest, device = max(len(sample.tokens) for sample in batch), self._backend.device
        tokens = torch.tensor([[*sample.tokens, *[0] * (longest - len(sample.tokens))] for sample in batch])
        places = [
            row * longest + sample.first + number
            for row, sample in enumerate(batch)
            for number in range(len(sample.targets))
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_autocast):
            hidden, _ = self._backend.hidden(tokens)
        # Rounded before the unembedding, so that a divergence is between the states that are unembedded.
        return hidden.flatten(0, 1)[torch.tensor(places, device=hidden.device)].to(self._unembed.dtype)

    def _log_odds(self, states: torch.Tensor, batch: Sequence[Sample]) -> Float[torch.Tensor, " token"]:
        targets = torch.tensor([token for sample in batch for token in sample.targets], device=states.device)
        return token_log_odds(states, self._unembed, targets, **self._backend.unembed_options)

    def _losses_of(self, batch: Sequence[Sample]) -> Float[torch.Tensor, " sample"]:
        """Compute the (sample,) losses of one batch, differentiable."""
        states = self._states(batch)
        log_odds = self._log_odds(states, batch)
        lengths = [len(sample.targets) for sample in batch]
        values = []
        for sample, z, rows in zip(batch, torch.split(log_odds, lengths), torch.split(states, lengths), strict=True):
            if sample.reference is not None:
                values.append(
                    sample.reference.divergence(rows, -z, self._unembed, **self._backend.unembed_options).mean()
                )
            else:
                answer = answer_log_odds(z)
                values.append(softplus((answer if sample.kind == "private" else -answer) + self._options.margin))
        return torch.stack(values)

    def _hooks(self, weights: Float[torch.Tensor, "layer neuron"]) -> list[tuple[str, Callable[..., Any]]]:
        """Make hooks that multiply the activations by 1 minus the gates' weights, at all positions."""

        def of_layer(layer: int) -> Callable[..., Any]:
            def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
                return (value * (1 - weights[layer]).to(value.device)).to(value.dtype)

            return edit

        layers = range(self._backend.n_layers)
        return [(self._backend.hook_name(NEURON_HOOK, layer), of_layer(layer)) for layer in layers]
