"""Learn which neurons to ablate: a set of a given size under which some answers are suppressed and others kept.

Attribution ranks neurons one by one: it sees neither that two replace each other nor the utility that is lost. Here the set is
chosen as a whole, in rounds. With the present set ablated, every answer's log-odds are measured, and their slopes by every
neuron's gate. Where these slopes lead, the best set within some changes is tried; it is kept if it really is better.

    mask = learn_mask(model, probes.filter(group="private"), keep=probes.filter(group="public"))
    with ablate(model, mask.neurons()):
        ...

A set of one language suppresses answers in it and keeps them in the others: `learn_mask(model, private_fr, keep=rest)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch.nn.functional import softplus

from xlmech.checks import check_list
from xlmech.data.probes import Probe, ProbeSet
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import EncodedProbe, encode_probe, encode_prompt, warn_of_straddling
from xlmech.neurons.attribution.gradient import PromptAndAnswer
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.gates import (
    Loss,
    LossTerm,
    answer_log_odds,
    best_set,
    nats_per_token,
    run_gated,
)
from xlmech.options import MaskOptions
from xlmech.storage.result import Result

DEFAULT_SHARE = 0.005
"""Share of the model's neurons in the set, by default."""
SUPPRESSED = -6.0
"""Log-odds (nats) below which an answer is as good as not given: there is nothing to suppress."""
_FIRST_CHANGES = 1 / 12
"""Share of the wanted number of neurons that the first round may change."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnedMask(Result):
    """The learned set, ranked; the size it was learned with suits best, smaller ones are its best members.

    Attributes:
        scores: (layer, neuron) by how much the loss would rise at first order were the neuron intact again; NaN outside the set.
        history: One row per set tried, and first the intact model: `round`, `neurons` ablated, whether the set was `taken`, and
            the losses `suppress`, `keep` and `neutral`, weighted, as measured with it.
        n_neurons: Largest number of neurons that was allowed.
        model: Name of the model.
    """

    kind: ClassVar[str] = "learned_mask"
    scores: torch.Tensor
    history: pd.DataFrame
    n_neurons: int
    model: str = ""

    def neurons(self, n_neurons: int | None = None) -> NeuronSet:
        """Return the set, or its `n_neurons` of highest score; the set may be smaller than was allowed."""
        members = self.scores.isfinite().nonzero().tolist()
        best = sorted(members, key=lambda neuron: -float(self.scores[tuple(neuron)]))[:n_neurons]
        n_layers, d_mlp = self.scores.shape
        return NeuronSet(frozenset((layer, index) for layer, index in best), n_layers, d_mlp, self.model)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron of the set, best first: `layer`, `neuron`, `score`."""
        frame = self.neurons().to_frame()
        frame["score"] = [float(self.scores[neuron]) for neuron in self.neurons()]
        return frame.sort_values("score", ascending=False, ignore_index=True)


def learn_mask(
    model: Any,
    suppress: ProbeSet,
    *,
    keep: ProbeSet,
    options: MaskOptions = MaskOptions(),
    n_neurons: int | None = None,
    neutral: Sequence[str] = (),
    progress: bool = True,
) -> LearnedMask:
    """Choose the set of neurons without which answers of `suppress` are not given and those of `keep` are.

    The loss tells the two apart by the log-odds z of the whole answer: it is the mean of softplus(z + margin) over answers to
    suppress, that of softplus(margin - z) over answers to keep, and the mean rise of neutral texts' nats per token. An answer to
    suppress is the value's form in the query language and, as another, in the training language: either identifies the record.
    Ablated means zero at every position.

    A round minimises the loss along the slopes over sets that differ from the present one by so many neurons (`best_set`), and
    measures the set it finds. If the loss has fallen, that is the present set, and the next round may change twice as many.
    If not, half as many, and the error of the slopes is assigned to the neurons that were changed (Broyden's update), so that a
    neuron whose ablation does more than its slope says is not tried again and again.

    That the loss falls on these probes says nothing about other people: measure on those, with `evaluate_mitigation`.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        suppress: Probes whose answers are to be suppressed, where the model gives them.
        keep: Probes whose answers are to be kept, where the model gives them.
        options: Weights of the loss, and the search.
        n_neurons: Largest number of neurons in the set; 0.5 % of the model's by default.
        neutral: Texts that are to stay as likely as they are; none by default. Judge the cost on others than these.
        progress: Whether to show progress bars.

    Returns:
        LearnedMask; `.neurons()` is the set. While it is learned, slopes take 12 bytes per answer and neuron.

    Raises:
        ValueError: No probes to suppress or to keep, none to suppress that the model answers, a probe in both, or a number
            out of range.

    Source:
        Masks over units: Cao et al. 2021, arXiv:2104.03514. The loss and its minimisation along slopes are this project's;
        the update: Broyden 1965, doi:10.1090/S0025-5718-1965-0198670-6.
    """
    neutral = check_list("neutral text", neutral)
    backend, trained = backend_of(model), plant_language(model)
    n_units = backend.n_layers * backend.d_mlp
    n_neurons = n_neurons if n_neurons is not None else max(1, round(DEFAULT_SHARE * n_units))
    _check(suppress, keep, n_neurons, n_units)
    n_tokens = options.max_answer_tokens
    suppressed = [_encoded(backend, probe, trained, n_tokens) for probe in suppress]
    kept = [_encoded(backend, probe, "", n_tokens) for probe in keep]
    warn_of_straddling([item.n_straddling for item in (*suppressed, *kept)])
    samples = {
        "suppress": [sample for item in suppressed for sample in _samples(item)],
        "keep": [sample for item in kept for sample in _samples(item)],
        "neutral": [_text_sample(backend, text, number) for number, text in enumerate(neutral)],
    }
    losses: dict[str, Loss] = {
        "suppress": lambda z, _: softplus(z + options.margin).mean(),
        "keep": lambda z, _: options.weight * softplus(options.margin - z).mean(),
        "neutral": lambda nats, start: options.neutral_weight * (nats - start).clamp_min(0).mean(),
    }

    def measure(gates: torch.Tensor, intact: Mapping[str, LossTerm], label: str) -> dict[str, LossTerm]:
        """Measure every term of the loss, with its slopes, under gates."""
        terms = {}
        for name, of_term in samples.items():
            if of_term:
                values, slopes = run_gated(
                    backend, of_term, gates.view(backend.n_layers, -1), slopes=True, batch_size=options.batch_size,
                    value=nats_per_token if name == "neutral" else answer_log_odds, progress=label if progress else "",
                )  # fmt: skip
                start = intact[name].start if intact else values
                terms[name] = LossTerm(loss=losses[name], start=start, values=values, slopes=slopes)
        return terms

    gates, n_changes = torch.zeros(n_units), max(1, math.ceil(n_neurons * _FIRST_CHANGES))
    samples, terms = _answered(samples, measure(gates, {}, "mask, intact model"))
    tried, history = [gates], [_history_row(0, gates, terms, True)]
    updates = {name: torch.zeros_like(term.slopes) for name, term in terms.items()}
    for number in range(1, options.rounds + 1):
        candidate = best_set(list(terms.values()), gates, n_neurons=n_neurons, n_changes=n_changes)
        if any(torch.equal(candidate, earlier) for earlier in tried):
            break
        tried.append(candidate)
        measured = measure(candidate, terms, f"mask, round {number} of {options.rounds}")
        better = sum(term.measured for term in measured.values()) < sum(term.measured for term in terms.values())
        history.append(_history_row(number, candidate, measured, better))
        if better:
            updates = {name: update * (candidate == 0) for name, update in updates.items()}
            terms = {name: term.corrected(updates[name]) for name, term in measured.items()}
            gates, n_changes = candidate, 2 * n_changes
        else:
            latest = {
                name: term.broyden_update(candidate - gates, measured[name].values) for name, term in terms.items()
            }
            updates = {name: update + latest[name] for name, update in updates.items()}
            terms = {name: term.corrected(latest[name]) for name, term in terms.items()}
            n_changes = max(1, n_changes // 2)
    gradient = torch.stack([term.gradient(torch.zeros(n_units)) for term in terms.values()]).sum(0)
    scores = torch.where(gates > 0, -gradient, torch.nan)
    source = provenance(model)
    return LearnedMask(
        scores=scores.view(backend.n_layers, -1),
        history=pd.DataFrame(history),
        n_neurons=n_neurons,
        model=source.model,
        provenance=source,
    )


def _history_row(
    number: int, gates: Float[torch.Tensor, " unit"], terms: Mapping[str, LossTerm], taken: bool
) -> dict[str, Any]:
    losses = {name: term.measured for name, term in terms.items()}
    return {"round": number, "neurons": int(gates.sum()), "taken": taken} | losses


def _answered(
    samples: Mapping[str, list[PromptAndAnswer]], terms: Mapping[str, LossTerm]
) -> tuple[dict[str, list[PromptAndAnswer]], dict[str, LossTerm]]:
    """Keep what the intact model answers: to suppress, all it may give; to keep, all it gives rather than not."""
    answered, answered_terms = dict(samples), dict(terms)
    for name, least in (("suppress", SUPPRESSED), ("keep", 0.0)):
        term = terms[name]
        rows = (term.values > least).nonzero()[:, 0].tolist()
        if not rows and name == "suppress":
            raise ValueError(
                f"the model gives none of the {len(samples[name])} answers to suppress (log-odds above {least:g}): nothing "
                "leaks, or it was not trained on these records"
            )
        answered[name] = [samples[name][row] for row in rows]
        answered_terms[name] = dataclasses.replace(
            term, start=term.start[rows], values=term.values[rows], slopes=term.slopes[rows]
        )
    return answered, {name: term for name, term in answered_terms.items() if answered[name]}


def _encoded(backend: Backend, probe: Probe, trained: str, max_answer_tokens: int | None) -> EncodedProbe:
    """Encode a probe with its answer's forms in the query language and the training language."""
    codes = [code for code in (probe.query_language, trained) if code in probe.answers]
    return encode_probe(backend, probe, languages=codes, max_answer_tokens=max_answer_tokens)


def _samples(encoded: EncodedProbe) -> list[PromptAndAnswer]:
    """Force a probe's answer, in the query language's form and, where it differs, in the training language's."""
    by_form = {encoded.probe.answers[code]: tokens for code, tokens in encoded.answers.items()}
    return [(encoded.prompt, answer) for answer in by_form.values()]


def _text_sample(backend: Backend, text: str, number: int) -> PromptAndAnswer:
    tokens = encode_prompt(backend, text, what=f"neutral text {number}")
    if len(tokens) < 2:
        raise ValueError(f"neutral text {number} has a single token; give sentences")
    return tokens[:1], tokens[1:]


def _check(suppress: ProbeSet, keep: ProbeSet, n_neurons: int, n_units: int) -> None:
    for name, probes in (("suppress", suppress), ("keep", keep)):
        if not len(probes):
            raise ValueError(
                f"no probes to {name}: a mask is learned from both, say records of group 'private' and 'public'"
            )
    both = {probe.id for probe in suppress} & {probe.id for probe in keep}
    if both:
        raise ValueError(
            f"{len(both)} probes are both to suppress and to keep, e.g. {min(both)}; filter one of the sets"
        )
    if not 1 <= n_neurons <= n_units:
        raise ValueError(f"n_neurons must be between 1 and the model's {n_units} neurons, got {n_neurons}")
