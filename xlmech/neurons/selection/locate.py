"""Locate privacy neurons: attribution of private answers in every language, minus that of public ones, then selection."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Mapping, Sequence
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
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.leak_check import check_known
from xlmech.neurons.selection.refine import refine_universal
from xlmech.neurons.selection.rules import candidates, chosen_frame, select_specific, select_universal
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
    public: ProbeSet | None = None,
    controls: ProbeSet | None = None,
    neutral: Mapping[str, Sequence[str]] | None = None,
    mode: Replacement = "zero",
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    verify: bool = False,
    target_reduction: float | None = None,
    check_leakage: bool = True,
    progress: bool = True,
) -> PrivacyNeurons:
    """Choose the neurons that private answers depend on: in all languages (universal), or in one (language-specific).

    A reconstruction: the paper (Dong et al. 2025, arXiv:2506.00759) publishes no formula. Per probe, attribution is divided
    by its maximum, so that probes weigh the same whatever their metric; per language it is averaged; `options.contrast` times
    the same average over public facts is subtracted, so that neurons for answering at all are not called privacy neurons; and
    the neurons that neutral text needs most are left out. That a neuron is chosen is a hypothesis: `verify` ablates each and
    drops those that do not help, `target_reduction` finds how few of them it takes, and `evaluate_mitigation` on
    people who did not choose them is the test.

    With `options.iterate`, neurons are located in rounds, the universal ones found so far ablated: this finds neurons that back
    each other up, and those behind saturated answers (metric `auto`), whose attribution hardly tells neurons apart until
    others are gone.

    Args:
        model: Hooked model.
        probes: Private probes; those of group public and control in it serve as `public` and `controls` by default.
        options: How neurons are chosen; the defaults are also those of the command line, the config and the demo.
        n_neurons: In place of `options.n_neurons`: largest number of universal neurons, and of each language's specific ones.
        public: Probes of public facts for the contrast; none is subtracted where there are none.
        controls: Probes of people whom the model never saw: they check that it knows the private answers and not these, and are
            the mean baseline of integrated gradients.
        neutral: Texts by language by which `options.spare` leaves neurons out; by default the half of the language packs'
            sentences that never judges (`LanguagePack.choosing`).
        mode: What will take a neuron's place when it is ablated, `zero` or `mean`; see `attribute_neurons`.
        values: (layer, neuron) activations of mode `mean`.
        verify: Whether to ablate the universal neurons, each and together, and drop those without which the set does as well
            (`verify_neurons`, with the same contrast): `n_neurons` is then the size of the shortlist. Of mode `zero` only.
        target_reduction: Keep the fewest universal neurons, from the best on, that reduce extraction of the private probes by
            this share, 0.8 say (`fewest_neurons`); all by default. On other people they will reduce it by less. Of mode `zero`
            only.
        check_leakage: Whether to refuse private answers that the model does not know (see `xlmech.neurons.selection.leak_check`):
            one forced pass over at most 64 probes.
        progress: Whether to show progress bars.

    Returns:
        PrivacyNeurons: `.universal`, `.specific["fr"]`; `.scores` are those of the intact model, minus infinity for neurons that
        were left out. `.chosen` has two columns more: `round`, in which a neuron was found and its `score` measured, and
        `n_saturated`, how many of the private probes behind it (its language's, or all) were attributed by log-odds because they
        are saturated; with `verify` two more, the exact effects, which are also the order of the universal ones.

    Raises:
        ValueError: No private probes, one language only, public probes in other languages than the private ones, a number out
            of range, or private answers that the model does not know.
        RuntimeError: Probes failed every time in so many languages that fewer than two are left.

    Warns:
        UserWarning: The model knows the control people's answers, integrated gradients do not converge, all probes of a language
            failed, none of the universal neurons helps, or not all of them together reach `target_reduction`.

    See also: the selections of earlier work, for comparison at equal counts, are `depn`, `knowledge_neurons`, `apneap` and `lape`
    (`xlmech.neurons.selection.published`), random ones `random_neurons`; a set learned as a whole is `learn_mask`'s.
    """
    private = probes.filter(group="private")
    public = public if public is not None else probes.filter(group="public")
    controls = controls if controls is not None else probes.filter(group="control")
    check_probes(private, public, options.contrast)
    backend, source = backend_of(model), provenance(model)
    options = _with_count(options, n_neurons, backend)
    _check_refinement(verify, target_reduction, mode)
    asked = _Attribution(model, options, mode, values, controls, progress)
    asked.check(private[:1])
    neutral = neutral if neutral is not None else _choosing(private.languages)
    check_texts(neutral)
    if check_leakage:
        check_known(backend, private, controls, max_answer_tokens=options.max_answer_tokens, progress=progress)
    spared = _spared(backend, neutral, options.spare)
    taken, languages = spared.clone(), private.languages
    first = languages
    rounds: list[pd.DataFrame] = []
    ablated, intact = NeuronSet(frozenset(), backend.n_layers, backend.d_mlp, source.model), torch.empty(0)
    for number in range(options.iterate):
        with ablate(model, ablated, mode=mode, values=values):
            found = asked.contrasted(private.filter(languages=languages), public)
        languages = found.languages
        scores = found.scores.masked_fill(spared, -torch.inf)
        if not number:
            intact, first = scores, languages
        size = (
            (options.n_neurons or 0) + number
        ) // options.iterate  # parts that differ by one at most, and make n_neurons
        chosen = _chosen(found, scores, taken, options, size)
        rounds.append(_with_counts(chosen, found, private).assign(round=number + 1))
        ablated |= _set_of(chosen[chosen.kind == "universal"], ablated)
        for layer, neuron in zip(chosen.layer, chosen.neuron, strict=True):
            taken[layer, neuron] = True
    rows = pd.concat([one for one in rounds if len(one)] or rounds[:1])
    rows = rows[rows.language.isin(["", *languages])]  # a language may be lost in a later round
    located = PrivacyNeurons(
        languages=languages,
        scores=intact[[first.index(code) for code in languages]],
        chosen=rows.sort_values("kind", ascending=False, kind="stable", ignore_index=True),
        rule=options.rule,
        model=source.model,
        options=options.model_dump(),
        provenance=source,
    )
    if not verify and target_reduction is None:
        return located
    return refine_universal(
        model, located, private, public, verify=verify, target_reduction=target_reduction, contrast=options.contrast,
        progress=progress,
    )  # fmt: skip


def check_probes(private: ProbeSet, public: ProbeSet, contrast: float) -> None:
    """Raise ValueError unless universal neurons can be located with these probes."""
    if not len(private):
        raise ValueError("no private probes to locate neurons with; records of group 'private' are needed")
    if len(private.languages) < 2:
        raise ValueError(
            f"probes in {private.languages[0]} only: a universal neuron is one of several languages; ask in two or more"
        )
    missing = set(private.languages) - set(public.languages)
    if len(public) and contrast and missing:
        raise ValueError(
            f"no public probes in {', '.join(sorted(missing))}: ask them in the private probes' languages, or set contrast=0"
        )


def _check_refinement(verify: bool, target_reduction: float | None, mode: Replacement) -> None:
    if target_reduction is not None and not 0 < target_reduction <= 1:
        raise ValueError(f"target_reduction must be in (0, 1], or None for the whole shortlist; got {target_reduction}")
    if mode != "zero" and (verify or target_reduction is not None):
        raise ValueError("verify and target_reduction hold neurons at zero; leave them out where mode='mean'")


def _with_count(options: LocateOptions, n_neurons: int | None, backend: Backend) -> LocateOptions:
    """The options with a number of neurons in them, checked."""
    size = operator.index(n_neurons) if n_neurons is not None else options.n_neurons
    size = size if size is not None else max(options.iterate, int(DEFAULT_SHARE * backend.n_layers * backend.d_mlp))
    return LocateOptions(**options.model_dump(exclude_unset=True) | {"n_neurons": size})


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
    mode: Replacement
    values: torch.Tensor | None
    controls: ProbeSet
    progress: bool

    def check(self, probes: ProbeSet) -> None:
        """Raise ValueError where values, controls or tokenizer do not fit, before work starts."""
        backend = backend_of(self.model)
        replacement_of(backend, self.options, self.mode, self.values)
        if self.options.method == "integrated_gradients" and self.options.baseline == "mean":
            check_baseline_probes(self.controls)
        if self.options.positions == "subject":
            subject_tokens(backend, probes[0])

    def of(self, probes: ProbeSet) -> AttributionResult:
        """Attributions of some probes."""
        return attribute_neurons(
            self.model, probes, options=self.options, mode=self.mode, values=self.values, baseline_probes=self.controls,
            progress=self.progress,
        )  # fmt: skip

    def contrasted(self, private: ProbeSet, public: ProbeSet) -> _Contrasted:
        """Attributions of private answers, less those of public ones, in the languages of which any probe is left."""
        found, contrast = self.of(private), self.options.contrast
        scores, share = found.mean, found.share
        if len(public) and contrast:
            facts = self.of(public.filter(languages=found.languages))
            order = [facts.languages.index(language) for language in found.languages]
            scores, share = scores - contrast * facts.mean[order], share - contrast * facts.share[order]
        left = _languages_left(found.languages, scores)
        kept = [found.languages.index(language) for language in left]
        return _Contrasted(left, scores[kept], share[kept], found.saturated)


def _languages_left(languages: tuple[str, ...], scores: _Scores) -> tuple[str, ...]:
    """The languages with a score; means of no probe are NaN, and rank nowhere."""
    failed = [code for code, of_language in zip(languages, scores, strict=True) if of_language.isnan().any()]
    left = tuple(code for code in languages if code not in failed)
    if len(left) < 2:
        raise RuntimeError(
            f"all probes in {', '.join(failed)} failed, and universal neurons are those of two languages or more; the log "
            "says why they failed, mend that and run again"
        )
    if failed:
        warnings.warn(
            f"all probes in {', '.join(failed)} failed: neurons are chosen in {', '.join(left)} only", stacklevel=3
        )
    return left


def _choosing(languages: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {code: packs.load_language(code).choosing for code in languages}


def _spared(backend: Backend, neutral: Mapping[str, Sequence[str]], share: float) -> Bool[torch.Tensor, "layer neuron"]:
    """Whether neutral text needs a neuron too much for it to be chosen."""
    spared = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.bool)
    if share:
        most = needed_for_text(backend, neutral).flatten().topk(round(share * spared.numel())).indices
        spared.view(-1)[most] = True
    return spared


def _chosen(
    found: _Contrasted,
    scores: _Scores,
    taken: Bool[torch.Tensor, "layer neuron"],
    options: LocateOptions,
    n_neurons: int,
) -> pd.DataFrame:
    """The frame of `PrivacyNeurons.chosen`, without neurons that are taken already."""
    scores = scores.masked_fill(taken, -torch.inf)
    is_candidate = candidates(scores, found.share, n_neurons=n_neurons, min_share=options.min_share) & ~taken
    universal = select_universal(scores, rule=options.rule, n_neurons=n_neurons, is_candidate=is_candidate)
    for layer, neuron, _ in universal:
        is_candidate[:, layer, neuron] = False  # not anybody's own
    chosen: dict[str, Any] = {
        "n_neurons": n_neurons, "is_candidate": is_candidate, "rule": options.rule, "max_entropy": options.max_entropy,
    }  # fmt: skip
    return chosen_frame([
        ("universal", "", universal),
        *(("specific", code, select_specific(scores, number, **chosen)) for number, code in enumerate(found.languages)),
    ])  # fmt: skip


def _with_counts(chosen: pd.DataFrame, found: _Contrasted, private: ProbeSet) -> pd.DataFrame:
    """With the number of saturated probes behind each neuron's score."""
    languages = [private[probe].query_language for probe in found.saturated]
    counts = {"": len(languages)} | {code: languages.count(code) for code in found.languages}
    return chosen.assign(n_saturated=chosen.language.map(counts).astype(int))


def _set_of(chosen: pd.DataFrame, like: NeuronSet) -> NeuronSet:
    pairs = frozenset(zip(chosen.layer.astype(int).tolist(), chosen.neuron.astype(int).tolist(), strict=True))
    return NeuronSet(pairs, like.n_layers, like.d_mlp, like.model)
