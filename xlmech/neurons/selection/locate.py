"""Locate privacy neurons: attribution of private answers in every language, minus that of public ones, then selection."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float

from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import subject_tokens
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.attribute import (
    AttributionResult,
    Replacement,
    attribute_neurons,
    check_baseline_probes,
    replacement_of,
)
from xlmech.neurons.attribution.neutral_text import check_texts, needed_for_text
from xlmech.neurons.neuron_set import NeuronSet, pairs_of
from xlmech.neurons.privacy_neurons import PrivacyNeurons, main_kind, one_language_note
from xlmech.neurons.selection.leak_check import check_known
from xlmech.neurons.selection.refine import refine_main
from xlmech.neurons.selection.rules import candidates, chosen_frame, select_specific, select_universal
from xlmech.neurons.selection.verify import neurons_of
from xlmech.options import LocateOptions

DEFAULT_SHARE = 0.002
"""Share of the model's neurons chosen by default, universal and specific each."""
_Scores = Float[torch.Tensor, "language layer neuron"]


def locate_privacy_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    options: LocateOptions = LocateOptions(),
    n_neurons: int | None = None,
    control_people: ProbeSet | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    verify: bool = False,
    target_reduction: float | None = None,
    progress: bool = True,
) -> PrivacyNeurons:
    """Choose the neurons that private answers depend on: in all languages (universal), or in one (language-specific).

    This is a reconstruction: the paper (Dong et al. 2025, arXiv:2506.00759) publishes no formula. Each probe's attribution is
    divided by its maximum, so that probes weigh the same whatever their metric, and averaged per language. From this,
    `options.contrast` times the same average over public facts is subtracted, so that neurons for answering at all are not called
    privacy neurons. The neurons that neutral text needs most are left out. That a neuron is chosen is a hypothesis: `verify`
    ablates each and drops those that do not help, `target_reduction` keeps as few as it takes, and `evaluate_mitigation` on
    held-out people is the test.

    With probes in one language, universal neurons are undefined: those that the rule would choose as universal, from this
    language's scores, are then its specific ones. Whether they act in other languages too is not measured. What is said of
    universal neurons below holds for them.

    With `options.iterate`, neurons are located in rounds, with the universal ones found so far ablated. This finds neurons that
    back each other up, and those behind saturated answers (metric `auto`), whose attribution hardly differs between neurons until
    others are ablated.

    Args:
        model: Hooked model.
        probes: Private probes, and those of group public for the contrast; without public ones nothing is subtracted.
        options: How neurons are chosen; the defaults are also those of the command line, the config and the demo.
        n_neurons: In place of `options.n_neurons`: largest number of universal neurons, and of each language's specific ones.
        control_people: Probes of people whom the model never saw, by default those of group control in `probes`. They check that
            it knows the private answers and not these, and are the baseline prompts of integrated gradients.
        neutral: Texts by language by which `options.spare` leaves neurons out; by default the half of the language packs'
            sentences that never judges (`LanguagePack.choosing`), of the query languages or, if none has a pack, of all packs.
        values: (layer, neuron) activations that will replace those of ablated neurons (`ablate(mode="mean")`); zero by default.
        verify: Whether to ablate the universal neurons, each and together, and drop those without which the set does as well
            (`verify_neurons`, with the same contrast); `n_neurons` is then the size of the shortlist. Not with `values`.
        target_reduction: Keep the fewest universal neurons, from the best on, that reduce extraction of the private probes by
            this share, 0.8 say (`fewest_neurons`); all by default. On other people they reduce it by less. Not with `values`.
        progress: Whether to show progress bars.

    Returns:
        PrivacyNeurons: `.universal`, `.specific["fr"]`; `.scores` are those of the intact model, minus infinity for neurons that
        were left out. `.chosen` has two columns more: `round`, in which a neuron was found and its `score` measured, and
        `n_saturated`, how many of the private probes behind it (its language's, or all) were attributed by log-odds because they
        are saturated. With `verify` it has the exact effects too, by which the universal ones are then in order.

    Raises:
        ValueError: No private probes, public probes in other languages than the private ones, a number out
            of range, or private answers that the model does not know (`options.check_leakage`).
        RuntimeError: Probes failed every time in so many languages that fewer than two are left, or in the only one.

    Warns:
        UserWarning: There is one language only, the model knows the control people's answers, integrated gradients do not
            converge, all probes of a language failed, none of the universal neurons helps, or not all of them together reach
            `target_reduction`.

    See also: the selections of earlier work, `depn`, `knowledge_neurons`, `apneap` and `lape`, for comparison at equal
    `n_neurons`; `random_neurons`; `learn_gates`, which turns many neurons down a little.
    """
    private, public = probes.filter(group="private"), probes.filter(group="public")
    control_people = control_people if control_people is not None else probes.filter(group="control")
    check_probes(private, public, options.contrast)
    backend, source = backend_of(model), provenance(model)
    n_neurons = operator.index(n_neurons) if n_neurons is not None else options.n_neurons
    if n_neurons is None:
        n_neurons = max(options.iterate, int(DEFAULT_SHARE * backend.n_layers * backend.d_mlp))
    options = options.updated(n_neurons=n_neurons)
    if target_reduction is not None and not 0 < target_reduction <= 1:
        raise ValueError(f"target_reduction must be in (0, 1], or None for the whole shortlist; got {target_reduction}")
    if values is not None and (verify or target_reduction is not None):
        raise ValueError("verify and target_reduction hold neurons at zero; leave them out where values are given")
    attribution = _Attribution(model, options, values, control_people, progress)
    attribution.check(private[:1])
    if note := one_language_note(private.languages):
        warnings.warn(note, stacklevel=2)
    if neutral is None:
        neutral = _neutral_texts(private.languages)
    check_texts(neutral)
    if options.check_leakage:
        check_known(backend, private, control_people, max_answer_tokens=options.max_answer_tokens, progress=progress)
    spared = _spared(backend, neutral, options.spare)
    excluded, languages = spared.clone(), private.languages
    scores_by_language: dict[str, torch.Tensor] = {}
    rounds: list[pd.DataFrame] = []
    ablated = NeuronSet(frozenset(), backend.n_layers, backend.d_mlp, source.model)
    for number in range(options.iterate):
        with ablate(model, ablated, mode=attribution.mode, values=values):
            contrasted = attribution.contrasted(private.filter(languages=languages), public)
        languages = contrasted.languages
        scores = contrasted.scores.masked_fill(spared, -torch.inf)
        scores_by_language = scores_by_language or dict(zip(languages, scores, strict=True))
        # The rounds' numbers differ by one at most, and add up to n_neurons.
        chosen = _chosen(contrasted, scores, excluded, options, (n_neurons + number) // options.iterate)
        rounds.append(_with_saturated(chosen, contrasted, private).assign(round=number + 1))
        ablated |= neurons_of(model, pairs_of(chosen[chosen.kind == main_kind(languages)]))
        for neuron in pairs_of(chosen):
            excluded[neuron] = True
    rows = pd.concat([frame for frame in rounds if len(frame)] or rounds[:1])
    rows = rows[rows.language.isin(["", *languages])]  # a language may fail in a later round
    located = PrivacyNeurons(
        languages=languages,
        scores=torch.stack([scores_by_language[code] for code in languages]),
        chosen=rows.sort_values("kind", ascending=False, kind="stable", ignore_index=True),
        rule=options.rule,
        model=source.model,
        options=options.model_dump(),
        provenance=source,
    )
    if not verify and target_reduction is None:
        return located
    return refine_main(
        model, located, private, public, verify=verify, target_reduction=target_reduction, contrast=options.contrast,
        progress=progress,
    )  # fmt: skip


def check_probes(private: ProbeSet, public: ProbeSet, contrast: float) -> None:
    """Raise ValueError unless neurons can be located with these probes."""
    if not len(private):
        raise ValueError("no private probes to locate neurons with; records of group 'private' are needed")
    missing = set(private.languages) - set(public.languages)
    if len(public) and contrast and missing:
        raise ValueError(
            f"no public probes in {', '.join(sorted(missing))}: ask them in the private probes' languages, or set contrast=0"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Contrasted:
    """Private minus public attribution, by language.

    Attributes:
        languages: In which probes were attributed.
        scores: (language, layer, neuron) mean attribution of private answers, less `contrast` times that of public ones.
        share: (language, layer, neuron) the same of the share of probes above the threshold.
        saturated: Ids of private probes attributed by log-odds.
    """

    languages: tuple[str, ...]
    scores: _Scores
    share: _Scores
    saturated: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Attribution:
    """How every round attributes."""

    model: Any
    options: LocateOptions
    values: torch.Tensor | None
    control_people: ProbeSet
    progress: bool

    @property
    def mode(self) -> Replacement:
        """What takes the place of an ablated neuron's activation."""
        return "zero" if self.values is None else "mean"

    def check(self, probes: ProbeSet) -> None:
        """Raise ValueError where values, control people or the tokenizer do not fit, before work starts."""
        backend = backend_of(self.model)
        replacement_of(backend, self.options, self.mode, self.values)
        if self.options.method == "integrated_gradients" and self.options.baseline == "mean":
            check_baseline_probes(self.control_people)
        if self.options.positions == "subject":
            subject_tokens(backend, probes[0])

    def of(self, probes: ProbeSet) -> AttributionResult:
        """Attribute the answers of some probes."""
        return attribute_neurons(
            self.model, probes, options=self.options, mode=self.mode, values=self.values,
            baseline_probes=self.control_people, progress=self.progress,
        )  # fmt: skip

    def contrasted(self, private: ProbeSet, public: ProbeSet) -> _Contrasted:
        """Subtract public answers' attributions from private ones, in the languages in which not all probes failed."""
        result, contrast = self.of(private), self.options.contrast
        scores, share = result.mean, result.share
        if len(public) and contrast:
            facts = self.of(public.filter(languages=result.languages))
            order = [facts.languages.index(language) for language in result.languages]
            scores, share = scores - contrast * facts.mean[order], share - contrast * facts.share[order]
        left = _languages_left(result.languages, scores)
        kept = [result.languages.index(language) for language in left]
        return _Contrasted(left, scores[kept], share[kept], result.saturated)


def _languages_left(languages: tuple[str, ...], scores: _Scores) -> tuple[str, ...]:
    """Return the languages with a score; means of no probe are NaN, and rank nowhere."""
    failed = [code for code, of_language in zip(languages, scores, strict=True) if of_language.isnan().any()]
    left = tuple(code for code in languages if code not in failed)
    if len(left) < min(2, len(languages)):
        needed = ", and universal neurons are those of two languages or more" if len(languages) > 1 else ""
        raise RuntimeError(
            f"all probes in {', '.join(failed)} failed{needed}; the log says why they failed, mend that and run again"
        )
    if failed:
        warnings.warn(
            f"all probes in {', '.join(failed)} failed: neurons are chosen in {', '.join(left)} only", stacklevel=3
        )
    return left


def _neutral_texts(languages: Iterable[str]) -> dict[str, Sequence[str]]:
    """Return the packs' texts that choose neurons, in these languages; where none of them has a pack, in all that have."""
    texts: dict[str, Sequence[str]] = {code: packs.find_language(code).choosing for code in languages}
    if any(texts.values()):
        return texts
    return {code: packs.load_language(code).choosing for code in packs.available_languages()}


def _spared(backend: Backend, neutral: Mapping[str, Sequence[str]], share: float) -> Bool[torch.Tensor, "layer neuron"]:
    """Say of each neuron whether neutral text needs it too much for it to be chosen."""
    spared = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.bool)
    if share:
        most = needed_for_text(backend, neutral).flatten().topk(round(share * spared.numel())).indices
        spared.view(-1)[most] = True
    return spared


def _chosen(
    contrasted: _Contrasted,
    scores: _Scores,
    excluded: Bool[torch.Tensor, "layer neuron"],
    options: LocateOptions,
    n_neurons: int,
) -> pd.DataFrame:
    """Return the frame of `PrivacyNeurons.chosen`, without excluded neurons."""
    scores = scores.masked_fill(excluded, -torch.inf)
    is_candidate = candidates(scores, contrasted.share, n_neurons=n_neurons, min_share=options.min_share) & ~excluded
    universal = select_universal(scores, rule=options.rule, n_neurons=n_neurons, is_candidate=is_candidate)
    if main_kind(contrasted.languages) == "specific":
        return chosen_frame([("specific", contrasted.languages[0], universal)])
    for layer, neuron, _ in universal:
        is_candidate[:, layer, neuron] = False  # a universal neuron is specific to no language
    specific = partial(
        select_specific, scores, n_neurons=n_neurons, is_candidate=is_candidate, rule=options.rule,
        max_entropy=options.max_entropy,
    )  # fmt: skip
    by_language = [("specific", code, specific(number)) for number, code in enumerate(contrasted.languages)]
    return chosen_frame([("universal", "", universal), *by_language])


def _with_saturated(chosen: pd.DataFrame, contrasted: _Contrasted, private: ProbeSet) -> pd.DataFrame:
    """Add the number of saturated probes behind each neuron's score."""
    languages = [private[probe].query_language for probe in contrasted.saturated]
    n_saturated = {"": len(languages)} | {code: languages.count(code) for code in contrasted.languages}
    return chosen.assign(n_saturated=chosen.language.map(n_saturated).astype(int))
