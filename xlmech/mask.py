"""Learn which neurons to deactivate: a mask of a fixed number of neurons, trained so that some answers go and others stay.

Attribution asks what each neuron adds alone; neurons that stand in for each other, and facts to be kept, it sees only at first
order. Here the whole set is off while it is trained. Every neuron has a score, the `count` highest are switched off, and a
batch's gradient with respect to the switches, taken with those off, is added to the scores (straight-through).

    mask = learn_mask(model, probes.filter(group="private"), keep=probes.filter(group="public"))
    with ablate(model, mask.neurons(100)):
        ...

What to suppress in one language and keep in the others makes a set of that language: `learn_mask(model, private_fr, keep=rest)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import trange

from xlmech import metrics
from xlmech.backends import Backend, backend_of
from xlmech.effects import COMPONENT
from xlmech.models import plant_language, provenance
from xlmech.neurons import NeuronSet
from xlmech.probes import Probe, ProbeSet
from xlmech.readout import token_log_prob
from xlmech.results import Result
from xlmech.runner import encode_answer, encode_prompt

DEFAULT_SHARE = 0.005
"""Share of the model's neurons that are off while the mask is trained, by default."""
_CEILING = 1 - 1e-4
"""A probability above is taken for this, so that the log-odds of a certain answer stay finite."""
_T = TypeVar("_T")
_Sample = tuple[list[int], list[int]]
_Samples = list[_Sample]
_Loss = Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnedMask(Result):
    """Scores of a trained mask; any number of neurons can be read off, the number it was trained with suits best.

    Attributes:
        scores: (layer, neuron) sum over the steps of how much switching the neuron off lowered the loss, at first order.
        history: One row per step: `step`, and `suppress`, `keep` and `neutral`, the losses of its batches before the step.
        count: Number of neurons that were off in training.
        model: Name of the model.
    """

    kind: ClassVar[str] = "learned_mask"
    scores: torch.Tensor
    history: pd.DataFrame
    count: int
    model: str = ""

    def neurons(self, count: int | None = None) -> NeuronSet:
        """The `count` neurons of highest score, by default as many as were off in training; fewer if fewer helped."""
        best = self.scores.flatten().topk(min(self.count if count is None else count, self.scores.numel()))
        d_mlp = self.scores.shape[1]
        pairs = frozenset(divmod(index, d_mlp) for index in best.indices[best.values > 0].tolist())
        return NeuronSet(pairs, *self.scores.shape, self.model)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron off in training, best first: `layer`, `neuron`, `score`."""
        frame = self.neurons().to_frame()
        frame["score"] = [float(self.scores[neuron]) for neuron in self.neurons()]
        return frame.sort_values("score", ascending=False, ignore_index=True)


def learn_mask(
    model: Any,
    suppress: ProbeSet,
    *,
    keep: ProbeSet,
    count: int | None = None,
    steps: int = 100,
    batch_size: int = 16,
    weight: float = 1.0,
    margin: float = 3.0,
    neutral: Sequence[str] = (),
    neutral_weight: float = 10.0,
    max_answer_tokens: int | None = 4,
    seed: int = 0,
    progress: bool = True,
) -> LearnedMask:
    """Train a mask under which answers of `suppress` are not given and those of `keep` are.

    The loss is that of telling the two apart by the log-odds z of the whole answer: softplus(z + margin) of what is to go,
    softplus(margin - z) of what is to stay, means over the batch; and the nats per token of neutral text. An answer to go
    is the value's form in the query or in the plant language, by turns: either gives the record away. Switched off means
    zero at every position.

    That the loss falls on these probes says nothing about other people: measure on those, with `evaluate_mitigation`.

    Args:
        model: Hooked model; what is ablated on it stays so.
        suppress: Probes whose answers are to go.
        keep: Probes whose answers are to stay.
        count: Neurons off at a time; 0.5 % of all by default. It grows to that over the first half of the steps.
        steps: Batches.
        batch_size: Probes of each kind per step.
        weight: Of the answers to keep.
        margin: Nats of log-odds beyond which an answer is gone, or safe.
        neutral: Texts that are to stay as likely as they are, a quarter as many per step; none by default. Judge the price on
            others than these.
        neutral_weight: Of their nats per token, which move far less than log-odds do.
        max_answer_tokens: Only the first so many tokens of each answer; None for all.
        seed: Of the draws.
        progress: Whether to show a progress bar.

    Returns:
        LearnedMask; `.neurons()` is the set.

    Raises:
        ValueError: No probes to suppress or to keep, a probe in both, or a number out of range.

    Source:
        Masks over units: Cao et al. 2021, arXiv:2104.03514; scores trained through a hard choice of the k best: Ramanujan
        et al. 2020, arXiv:1911.13299. The loss is this project's.
    """
    backend = backend_of(model)
    total = backend.n_layers * backend.d_mlp
    count = count if count is not None else max(1, round(DEFAULT_SHARE * total))
    _check(suppress, keep, count, total, steps, batch_size, (weight, margin, neutral_weight), max_answer_tokens)
    terms = _terms(backend, suppress, keep, neutral, plant_language(model), batch_size, max_answer_tokens, margin, seed)
    weights = {"suppress": 1.0, "keep": weight, "neutral": neutral_weight}
    scores, history = torch.zeros(total), []
    for step in trange(steps, desc="mask", disable=not progress, leave=False):
        off = _highest(scores, _growing(count, step, steps)).view(backend.n_layers, -1)
        losses = {}
        for name, term in terms.items():
            losses[name], gradient = _loss_and_gradient(backend, next(term), off)
            scores -= weights[name] * gradient.flatten().cpu()
        history.append({"step": step} | losses)
    source = provenance(model, seed=seed)
    return LearnedMask(
        scores=scores.view(backend.n_layers, -1),
        history=pd.DataFrame(history),
        count=count,
        model=source.model,
        provenance=source,
    )


def _check(
    suppress: ProbeSet,
    keep: ProbeSet,
    count: int,
    total: int,
    steps: int,
    batch_size: int,
    not_negative: tuple[float, ...],
    max_answer_tokens: int | None,
) -> None:
    for name, probes in (("suppress", suppress), ("keep", keep)):
        if not len(probes):
            raise ValueError(
                f"no probes to {name}: a mask is told what is to go and what is to stay; records of group 'private' and 'public'"
            )
    both = {probe.id for probe in suppress} & {probe.id for probe in keep}
    if both:
        raise ValueError(f"{len(both)} probes are both to go and to stay, e.g. {min(both)}; filter one of the sets")
    if not 1 <= count <= total:
        raise ValueError(f"count must be between 1 and the model's {total} neurons, got {count}")
    if min(steps, batch_size, 1 if max_answer_tokens is None else max_answer_tokens) < 1:
        raise ValueError(
            f"steps, batch_size and max_answer_tokens must be at least 1, got {steps}, {batch_size}, {max_answer_tokens}"
        )
    if not min(not_negative) >= 0:
        raise ValueError(f"weight, margin and neutral_weight must not be negative, got {not_negative}")


def _terms(
    backend: Backend,
    suppress: ProbeSet,
    keep: ProbeSet,
    neutral: Sequence[str],
    planted: str,
    size: int,
    longest: int | None,
    margin: float,
    seed: int,
) -> dict[str, Iterator[_Loss]]:
    """Per term of the loss, the losses of its batches without end."""
    rngs = [np.random.default_rng((seed, number)) for number in range(3)]
    both = (probe_forms(probe, (probe.query_language, planted)) for probe in suppress)
    own = (probe_forms(probe, (probe.query_language,)) for probe in keep)
    to_go, to_stay = (
        [_tokens(backend, probe, forms, longest) for probe, forms in zip(probes, found, strict=True)]
        for probes, found in ((suppress, both), (keep, own))
    )
    texts = [encode_prompt(backend, text, what=f"neutral text {number}") for number, text in enumerate(neutral)]

    def gone(batch: list[_Samples]) -> torch.Tensor:
        chosen = [samples[rngs[0].integers(len(samples))] for samples in batch]
        return softplus(answer_log_odds(backend, chosen) + margin).mean()

    def stays(batch: list[_Samples]) -> torch.Tensor:
        return softplus(margin - answer_log_odds(backend, [samples[0] for samples in batch])).mean()

    terms: dict[str, Iterator[_Loss]] = {
        "suppress": (partial(gone, batch) for batch in _batches(to_go, size, rngs[0])),
        "keep": (partial(stays, batch) for batch in _batches(to_stay, size, rngs[1])),
    }
    if texts:
        batches = _batches(texts, max(1, size // 4), rngs[2])
        terms["neutral"] = (partial(_nats_per_token, backend, batch) for batch in batches)
    return terms


def probe_forms(probe: Probe, languages: Sequence[str]) -> list[str]:
    """The different forms of a probe's answer in some languages, in their order."""
    return list(dict.fromkeys(probe.answers[code] for code in languages if code in probe.answers))


def _tokens(backend: Backend, probe: Probe, forms: Sequence[str], longest: int | None) -> _Samples:
    """(prompt, answer) tokens of a probe, for each form of its answer."""
    answers = [encode_answer(backend, form, what=f"the answer of {probe.id}")[:longest] for form in forms]
    prompt = encode_prompt(backend, probe.prompt, room=max(map(len, answers)), what=f"probe {probe.id}")
    return [(prompt, answer) for answer in answers]


def _batches(items: Sequence[_T], size: int, rng: np.random.Generator) -> Iterator[list[_T]]:
    """Batches without end; every item once before any comes again."""
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += rng.permutation(len(items)).tolist()
        yield [items[index] for index in waiting[:size]]
        waiting = waiting[size:]


def _growing(count: int, step: int, steps: int) -> int:
    """Neurons off at a step: from none in the first one to `count` at half time."""
    return min(count, round(2 * count * step / steps))


def _highest(scores: Float[torch.Tensor, " neuron"], count: int) -> Float[torch.Tensor, " neuron"]:
    """1 for the `count` highest positive scores, 0 elsewhere."""
    best = scores.topk(count)
    return torch.zeros_like(scores).scatter_(0, best.indices, (best.values > 0).to(scores.dtype))


def _loss_and_gradient(
    backend: Backend, loss: _Loss, off: Float[torch.Tensor, "layer neuron"]
) -> tuple[float, Float[torch.Tensor, "layer neuron"]]:
    """A loss with neurons switched off, and its gradient by the switches."""
    switches = off.to(backend.device, torch.promote_types(backend.unembed.dtype, torch.float32)).requires_grad_()
    with torch.enable_grad(), backend.hooks(_switching(backend, switches)):
        value = loss()
        (gradient,) = torch.autograd.grad(value, switches)
    return float(value.detach()), gradient


def _switching(backend: Backend, switches: Float[torch.Tensor, "layer neuron"]) -> list[tuple[str, Callable[..., Any]]]:
    def hook(layer: int) -> Callable[..., Any]:
        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
            return value * (1 - switches[layer]).to(value.dtype)

        return edit

    return [(backend.hook_name(COMPONENT, layer), hook(layer)) for layer in range(backend.n_layers)]


def answer_log_odds(backend: Backend, batch: Sequence[_Sample]) -> Float[torch.Tensor, " row"]:
    """(row,) log p - log(1 - p) of each answer as a whole (nats), differentiable; prompts and answers of any length."""
    each, rows = _token_log_probs(backend, batch)
    whole = torch.zeros(len(batch), dtype=each.dtype, device=each.device).index_add(0, rows, each)
    return metrics.of_log_prob(whole + math.log(_CEILING), "log_odds")


def _nats_per_token(backend: Backend, texts: Sequence[Sequence[int]]) -> Float[torch.Tensor, ""]:
    """Negative log-likelihood per token of some texts together, but for each one's first token; differentiable."""
    each, _ = _token_log_probs(backend, [(list(text[:1]), list(text[1:])) for text in texts])
    return -each.mean()


def _token_log_probs(
    backend: Backend, batch: Sequence[_Sample]
) -> tuple[Float[torch.Tensor, " token"], Int[torch.Tensor, " token"]]:
    """Log-probability of every answer token, nats, and which row it is of; padding is on the right, where no token sees it."""
    tokens = pad_sequence([torch.tensor([*prompt, *answer]) for prompt, answer in batch], batch_first=True)
    places = [(row, len(prompt) - 1 + at) for row, (prompt, answer) in enumerate(batch) for at in range(len(answer))]
    rows, columns = torch.tensor(places, device=backend.device).T
    hidden, _ = backend.hidden(tokens)
    targets = torch.tensor([token for _, answer in batch for token in answer], device=backend.device)
    return token_log_prob(hidden[rows, columns], backend.unembed, targets, **backend.readout), rows
