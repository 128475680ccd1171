"""Select neurons as earlier work does, with its published constants, to compare a set with.

`depn`, `knowledge_neurons` and `apneap` attribute a text's answer by an equal-step sum from a ZERO baseline, mark the neurons
that reach a part of the text's maximum, and keep those that enough texts mark. In models with a norm after the MLP (Gemma 2 and
3, OLMo 2) that sum does not converge, because the norm hides any scaling of the activations; they are run as published all the
same, and warn where the completeness error shows it. There the gradient at zero outweighs the rest of the path: on the demo model
it is 94 to 100 % of the sum (its norm, 12 texts), so that left and inclusive sums rank alike, and `depn` and `knowledge_neurons`
differ only by how texts are counted. `lape` finds neurons of a language, not of an answer.

Compare at equal `n_neurons`, which cuts a set in the order of the recipe's own ranking, or fills it up. What the published rule
keeps comes first; then the neurons that most texts mark; then those with the largest mean attribution. So where the rule keeps
few (on the demo model that of DEPN keeps one neuron of 36,864), a large set is mostly the ranking, not the rule. Random sets
are in `xlmech.neurons.random_neurons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import mean_over_tokens
from xlmech.models.backends import backend_of
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.thresholding import ThresholdOptions, ranked_set, select_by_thresholds

DEPN = ThresholdOptions(
    recipe="depn", metric="prob", rule="left", strict=False, steps=20, threshold=0.1, min_share=0.5,
)  # fmt: skip
KNOWLEDGE_NEURONS = ThresholdOptions(
    recipe="knowledge_neurons", metric="prob", rule="inclusive", by_fact=True, steps=20, threshold=0.3, min_share=0.7,
)  # fmt: skip
APNEAP = ThresholdOptions(
    recipe="apneap", metric="log_prob", rule="left", signed=False, steps=10, threshold=0.1, min_share=0.5,
)  # fmt: skip
_GATE = "mlp.hook_pre"


def depn(
    model: Any,
    probes: ProbeSet,
    *,
    options: ThresholdOptions = DEPN,
    language: str | None = "en",
    n_neurons: int | None = None,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> NeuronSet:
    """Choose DEPN's privacy neurons: at least 0.1 of a text's maximum, in at least half of the texts.

    Attribution is of the answer's probability, by the left sum of 20 steps from zero. Ranked by the share of texts, then by
    the mean of the normalised attribution.

    Args:
        model: Hooked model.
        probes: Private probes are taken from it.
        options: The recipe as published by default; change a constant with `dataclasses.replace`.
        language: Query language of the texts, English as published; None for all.
        n_neurons: Number of neurons, by the ranking, which goes on below the thresholds (see the module); by default those that
            pass them, which may be none.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: No private probes in `language`, a constant out of range, or `n_neurons` above the number of neurons that have
            any positive attribution.

    Warns:
        UserWarning: The sum does not converge; see the module.

    Source:
        Wu et al. 2023, arXiv:2310.20138. Differs: the tokens of an answer are summed, where the paper has their product.
    """
    return select_by_thresholds(
        model, probes, options, language=language, n_neurons=n_neurons, max_answer_tokens=max_answer_tokens, progress=progress
    )  # fmt: skip


def knowledge_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    options: ThresholdOptions = KNOWLEDGE_NEURONS,
    language: str | None = "en",
    n_neurons: int | None = None,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> NeuronSet:
    """Choose knowledge neurons of private facts: above 0.3 of a prompt's maximum, in more than 0.7 of a fact's prompts.

    Attribution is of the answer's probability, by the mean gradient at 20 points from zero to the activation, both included.
    The set is the union over facts, ranked by the number of facts, then by the share of prompts, then by the mean of the
    normalised attribution. A fact's prompts are its probes: give several templates.

    The threshold 0.3 is the default of the package knowledge-neurons; the paper's code has 0.2. The share 0.7 is the paper's,
    which then moves it by steps of 0.05 until a fact has two to five neurons; the package has 0.5.

    Arguments, errors and warnings are those of `depn`. `knowledge_neurons` also warns if every fact has a single
    prompt: of this rule only the threshold is left then.

    Source:
        Dai et al. 2022, arXiv:2104.08696; inclusive points: its package knowledge-neurons (EleutherAI).
    """
    return select_by_thresholds(
        model, probes, options, language=language, n_neurons=n_neurons, max_answer_tokens=max_answer_tokens, progress=progress
    )  # fmt: skip


def apneap(
    model: Any,
    probes: ProbeSet,
    *,
    options: ThresholdOptions = APNEAP,
    language: str | None = "en",
    n_neurons: int | None = None,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> NeuronSet:
    """Choose APNEAP's privacy neurons: by size, above 0.1 of a text's largest, in more than half of the texts.

    Attribution is of the answer's log-probability (a token's gradient divided by its probability), by the left sum of 10 steps
    from zero; its sign is dropped, so that neurons that work against the answer are among the chosen. Ranked by the share of
    texts, then by the mean normalised size.

    Not done: the texts that the model makes up to augment the private ones (add probes to the set instead), and the edit by
    a steering vector in place of zeroing.

    Arguments, errors and warnings are those of `depn`.

    Source:
        Wu et al. 2024, aclanthology.org/2024.findings-acl.315; constants: the defaults of its released scripts. Differs from
        these: the gradient is read at the position that predicts the token, where they read it one further, and divided by
        the token's probability once, where they do so twice.
    """
    return select_by_thresholds(
        model, probes, options, language=language, n_neurons=n_neurons, max_answer_tokens=max_answer_tokens, progress=progress
    )  # fmt: skip


def lape(
    model: Any,
    languages: Sequence[str],
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    share: float = 0.01,
    quantile: float = 0.95,
    n_neurons: int | None = None,
    progress: bool = True,
) -> dict[str, NeuronSet]:
    """Choose language neurons as LAPE does: neurons that are often active in one language or few, whatever the question.

    A neuron is active at a token where what its activation function gives is positive: in gated MLPs the gate, not its product
    with the other half. Of the neurons whose activation probability exceeds, in some language, the 95th percentile over all
    neurons and languages, the 1 % of the model's neurons with the lowest entropy over languages are chosen, and given to every
    language whose probability exceeds that percentile. Ranked by entropy, then by the largest probability.

    Args:
        model: Hooked model.
        languages: Two or more.
        texts: Plain text per language; by default the language packs' `choosing` sentences, which measure no cost. These are
            some hundred tokens, where the paper had 100 million: probabilities are coarse, and aligned in content.
        share: Share of the model's neurons with the lowest entropy.
        quantile: Of all activation probabilities, to be exceeded.
        n_neurons: Neurons of each language, by the ranking; those among `share` by default.
        progress: Whether to show progress bars.

    Returns:
        By language, its neurons; a neuron may belong to several.

    Raises:
        ValueError: Fewer than two languages, one without pack or text, a constant out of range, or `n_neurons` neurons that a
            language does not have.

    Source:
        Tang et al. 2024, arXiv:2402.16438.
    """
    plain = _plain_text(languages, texts)
    if not (0 < share <= 1 and 0 <= quantile < 1) or (n_neurons is not None and n_neurons < 1):
        raise ValueError(
            f"share must be in (0, 1], quantile in [0, 1), n_neurons 1 or more; got {share}, {quantile}, {n_neurons}"
        )
    backend = backend_of(model)
    by_language = [
        mean_over_tokens(
            backend, sentences, _GATE, lambda value: value > 0, progress=f"{code} text" if progress else ""
        )
        for code, sentences in plain.items()
    ]
    probabilities = torch.stack(by_language).flatten(1).numpy()
    bar = np.quantile(probabilities, quantile)
    order = np.flatnonzero((probabilities > bar).any(0))
    order = order[np.lexsort((-probabilities.max(0)[order], stats.entropy(probabilities[:, order], axis=0)))]
    lowest = np.isin(np.arange(probabilities.shape[1]), order[: round(share * probabilities.shape[1])])
    return {
        code: ranked_set(backend, f"lape in {code}", order, lowest & (active > bar), active > bar, n_neurons)
        for code, active in zip(plain, probabilities, strict=True)
    }


def _plain_text(languages: Sequence[str], texts: Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]]:
    languages = check_list("language", languages)
    if len(set(languages)) != len(languages) or len(languages) < 2:
        raise ValueError(f"languages {list(languages)}: an entropy over languages needs two or more different ones")
    if texts is None:
        return {code: packs.load_language(code).choosing for code in languages}
    for code in languages:
        if isinstance(texts.get(code, ""), str) or not texts[code]:
            raise ValueError(
                f"texts hold no list of sentences in {code!r}; they are in {', '.join(texts) or 'no language'}"
            )
    return {code: texts[code] for code in languages}
