"""Learn which neurons to deactivate: a set of a given size under which some answers go and others stay.

Attribution ranks neurons one by one; it sees neither that two stand in for each other nor what else is lost. Here the set is
chosen as a whole, in rounds. With the present set switched off, every answer's log-odds are measured, and their slopes by every
neuron's switch. Where these slopes lead, the best set within some steps is tried; it is kept if it really is better.

    mask = learn_mask(model, probes.filter(group="private"), keep=probes.filter(group="public"))
    with ablate(model, mask.neurons()):
        ...

What to suppress in one language and keep in the others makes a set of that language: `learn_mask(model, private_fr, keep=rest)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch.nn.functional import softplus

from xlmech.checks import check_list
from xlmech.data.probes import Probe, ProbeSet
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import encode_probe, encode_prompt
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.gates import Sample, answer_log_odds, nats_per_token, switched
from xlmech.neurons.selection.set_search import Loss, Term, best_set
from xlmech.storage.result import Result

DEFAULT_SHARE = 0.005
"""Share of the model's neurons in the set, by default."""
GONE = -6.0
"""Log-odds (nats) below which an answer is as good as not given: there is nothing to suppress."""
_FIRST_STEP = 1 / 12
"""Of the wanted size, how many neurons are switched in the first round."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnedMask(Result):
    """The trained set, ranked; the size it was trained with suits best, smaller ones are its best members.

    Attributes:
        scores: (layer, neuron) by how much the loss would rise at first order were the neuron on again; NaN outside the set.
        history: One row per set tried, and first the untouched model: `round`, `neurons` off, whether the set was `taken`, and
            the losses `suppress`, `keep` and `neutral`, weighted, as measured with it.
        count: Size that was wanted.
        model: Name of the model.
    """

    kind: ClassVar[str] = "learned_mask"
    scores: torch.Tensor
    history: pd.DataFrame
    count: int
    model: str = ""

    def neurons(self, count: int | None = None) -> NeuronSet:
        """The set, or its `count` neurons of highest score; the set may be smaller than was wanted."""
        members = self.scores.isfinite().nonzero().tolist()
        best = sorted(members, key=lambda neuron: -float(self.scores[tuple(neuron)]))[:count]
        n_layers, d_mlp = self.scores.shape
        return NeuronSet(frozenset((layer, index) for layer, index in best), n_layers, d_mlp, self.model)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron of the set, best first: `layer`, `neuron`, `score`."""
        frame = self.neurons().to_frame()
        frame["score"] = [float(self.scores[neuron]) for neuron in self.neurons()]
        return frame.sort_values("score", ascending=False, ignore_index=True)


def learn_mask(
    model: Any,
    suppress: ProbeSet,
    *,
    keep: ProbeSet,
    count: int | None = None,
    rounds: int = 10,
    weight: float = 1.0,
    margin: float = 3.0,
    neutral: Sequence[str] = (),
    neutral_weight: float = 10.0,
    max_answer_tokens: int | None = 4,
    batch_size: int = 16,
    progress: bool = True,
) -> LearnedMask:
    """Choose the set under which answers of `suppress` are not given and those of `keep` are.

    The loss is that of telling the two apart by the log-odds z of the whole answer: the mean of softplus(z + margin) of what
    is to go, that of softplus(margin - z) of what is to stay, and the mean rise of neutral texts' nats per token. An answer
    to go is the value's form in the query language and, as another, in the plant language: either gives the record away. Off
    means zero at every position.

    A round minimises the loss along the slopes over sets that differ from the present one by so many neurons (`best_set`), and
    measures the set it finds. If the loss has fallen, that is the present set, and the next round may change twice as many.
    If not, half as many, and what the slopes missed is laid to the neurons that were tried (Broyden's update), so that a
    neuron whose absence does more than its slope says is not tried again and again. The loss as measured never rises from
    one taken set to the next.

    That the loss falls on these probes says nothing about other people: measure on those, with `evaluate_mitigation`.

    Args:
        model: Hooked model; what is ablated on it stays so.
        suppress: Probes whose answers are to go, where the model gives them.
        keep: Probes whose answers are to stay, where the model gives them.
        count: Size of the set; 0.5 % of the model's neurons by default.
        rounds: Sets that are tried at most; each costs a forward and a backward pass of every answer. Fewer where the slopes
            lead to a set that was tried before.
        weight: Of the answers to keep.
        margin: Nats of log-odds beyond which an answer is gone, or safe.
        neutral: Texts that are to stay as likely as they are; none by default. Judge the cost on others than these.
        neutral_weight: Of their rise, which is far smaller than that of log-odds.
        max_answer_tokens: Only the first so many tokens of each answer; None for all.
        batch_size: Answers at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        LearnedMask; `.neurons()` is the set. While it is trained, slopes take 12 bytes per answer and neuron.

    Raises:
        ValueError: No probes to suppress or to keep, none to suppress that the model answers, a probe in both, or a number
            out of range.

    Source:
        Masks over units: Cao et al. 2021, arXiv:2104.03514. The loss and its minimisation along slopes are this project's;
        the update: Broyden 1965, doi:10.1090/S0025-5718-1965-0198670-6.
    """
    neutral = check_list("neutral text", neutral)
    backend, planted = backend_of(model), plant_language(model)
    total = backend.n_layers * backend.d_mlp
    count = count if count is not None else max(1, round(DEFAULT_SHARE * total))
    _check(suppress, keep, count, total, rounds, batch_size, (weight, margin, neutral_weight), max_answer_tokens)
    samples = {
        "suppress": [s for probe in suppress for s in _samples(backend, probe, planted, max_answer_tokens)],
        "keep": [s for probe in keep for s in _samples(backend, probe, "", max_answer_tokens)],
        "neutral": [_text(backend, text, number) for number, text in enumerate(neutral)],
    }
    losses: dict[str, Loss] = {
        "suppress": lambda z, _: softplus(z + margin).mean(),
        "keep": lambda z, _: weight * softplus(margin - z).mean(),
        "neutral": lambda nats, start: neutral_weight * (nats - start).clamp_min(0).mean(),
    }
    off, step, history = torch.zeros(total), max(1, math.ceil(count * _FIRST_STEP)), []
    tried = [off]
    measure = partial(_measured, backend, losses=losses, batch_size=batch_size)
    terms = measure(samples, off, {}, progress="mask, untouched model" if progress else "")
    samples, terms = _answered(samples, terms)
    history.append(_line(0, off, terms, True))
    bends = {name: torch.zeros_like(term.slopes) for name, term in terms.items()}
    for number in range(1, rounds + 1):
        candidate = best_set(list(terms.values()), off, count=count, step=step)
        if any(torch.equal(candidate, other) for other in tried):
            break
        tried.append(candidate)
        found = measure(samples, candidate, terms, progress=f"mask, round {number} of {rounds}" if progress else "")
        better = _cost(found) < _cost(terms)
        history.append(_line(number, candidate, found, better))
        if better:
            bends = {name: bend * (candidate == 0) for name, bend in bends.items()}
            terms = {name: term.bent(bends[name]) for name, term in found.items()}
            off, step = candidate, 2 * step
        else:
            missed = {name: term.missed(candidate - off, found[name].values) for name, term in terms.items()}
            bends = {name: bend + missed[name] for name, bend in bends.items()}
            terms = {name: term.bent(missed[name]) for name, term in terms.items()}
            step = max(1, step // 2)
    steepness = torch.stack([term.gradient(torch.zeros(total)) for term in terms.values()]).sum(0)
    scores = torch.where(off > 0, -steepness, torch.nan)
    source = provenance(model)
    return LearnedMask(
        scores=scores.view(backend.n_layers, -1),
        history=pd.DataFrame(history),
        count=count,
        model=source.model,
        provenance=source,
    )


def _measured(
    backend: Backend,
    samples: Mapping[str, list[Sample]],
    off: Float[torch.Tensor, " unit"],
    before: Mapping[str, Term],
    *,
    losses: Mapping[str, Loss],
    batch_size: int,
    progress: str,
) -> dict[str, Term]:
    """Every kind of sample with its slopes, with units switched off."""
    found = {}
    for name, of_kind in samples.items():
        if of_kind:
            value = nats_per_token if name == "neutral" else answer_log_odds
            switches = off.view(backend.n_layers, -1)
            values, slopes = switched(
                backend, of_kind, switches, value=value, slopes=True, batch_size=batch_size, progress=progress
            )
            start = before[name].start if before else values
            found[name] = Term(loss=losses[name], start=start, values=values, slopes=slopes)
    return found


def _cost(terms: Mapping[str, Term]) -> float:
    return sum(term.cost for term in terms.values())


def _line(number: int, off: Float[torch.Tensor, " unit"], terms: Mapping[str, Term], taken: bool) -> dict[str, Any]:
    costs = {name: term.cost for name, term in terms.items()}
    return {"round": number, "neurons": int(off.sum()), "taken": taken} | costs


def _answered(
    samples: Mapping[str, list[Sample]], terms: Mapping[str, Term]
) -> tuple[dict[str, list[Sample]], dict[str, Term]]:
    """What the untouched model answers: all to go that it may give, all to stay that it gives rather than not."""
    found_samples, found_terms = dict(samples), dict(terms)
    for name, least in (("suppress", GONE), ("keep", 0.0)):
        term = terms[name]
        these = (term.values > least).nonzero()[:, 0].tolist()
        if not these and name == "suppress":
            raise ValueError(
                f"the model gives none of the {len(samples[name])} answers to suppress (log-odds above {least:g}): nothing "
                "leaks, or it was not trained on these records"
            )
        found_samples[name] = [samples[name][number] for number in these]
        found_terms[name] = dataclasses.replace(
            term, start=term.start[these], values=term.values[these], slopes=term.slopes[these]
        )
    return found_samples, {name: term for name, term in found_terms.items() if found_samples[name]}


def _samples(backend: Backend, probe: Probe, planted: str, longest: int | None) -> list[Sample]:
    """A probe with its answer forced, in the query language's form and, where it differs, in the plant language's."""
    codes = [code for code in (probe.query_language, planted) if code in probe.answers]
    encoded = encode_probe(backend, probe, languages=codes, max_answer_tokens=longest)
    by_form = {probe.answers[code]: tokens for code, tokens in encoded.answers.items()}
    return [(encoded.prompt, answer) for answer in by_form.values()]


def _text(backend: Backend, text: str, number: int) -> Sample:
    tokens = encode_prompt(backend, text, what=f"neutral text {number}")
    if len(tokens) < 2:
        raise ValueError(f"neutral text {number} has a single token; give sentences")
    return tokens[:1], tokens[1:]


def _check(
    suppress: ProbeSet,
    keep: ProbeSet,
    count: int,
    total: int,
    rounds: int,
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
    if min(rounds, batch_size, 1 if max_answer_tokens is None else max_answer_tokens) < 1:
        raise ValueError(
            f"rounds, batch_size and max_answer_tokens must be at least 1, got {rounds}, {batch_size}, {max_answer_tokens}"
        )
    if not min(not_negative) >= 0:
        raise ValueError(f"weight, margin and neutral_weight must not be negative, got {not_negative}")
