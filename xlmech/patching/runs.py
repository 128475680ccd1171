"""Run prompts with activations overwritten by those of donor prompts: the tensors behind `xlmech.patching.between_languages`.

A prompt's prefix up to the first overwritten position is run once; every layer (and head, and position) to overwrite is a row
of one batch, and so are several prompts of equal length and positions. The clean row gives the unpatched baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float

from xlmech.data.pairs import ProbePair
from xlmech.engine.batching import Recorder, rows_that_fit, run_batched, run_in_batches
from xlmech.engine.interventions import Intervention, replace_where, run_interventions
from xlmech.engine.score import forced_log_prob
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import Backend

Form = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A prompt whose activations are put in another.

    Attributes:
        prompt: Its tokens.
        positions: Its position for each one that is overwritten.
        forms: Forms of each outcome, as tokens after this prompt; as many as the patched prompt has.
    """

    prompt: Form
    positions: Form
    forms: dict[str, tuple[Form, ...]]


@dataclass(frozen=True, kw_only=True)
class PatchedPrompt:
    """One prompt to overwrite; an item of `run_task`.

    Attributes:
        pair: The pair of probes that it is made from.
        prompt: Its tokens.
        positions: Consecutive positions to overwrite.
        donors: Prompts whose activations are put there (their mean where several).
        forms: Forms of each outcome, as tokens after the prompt.
        n_straddling: Most tokens at the end of one of the prompts that were given over to the forms (see `InContext`).
    """

    pair: ProbePair
    prompt: Form
    positions: Form
    donors: tuple[Donor, ...]
    forms: dict[str, tuple[Form, ...]]
    n_straddling: int = 0
    group: ClassVar[str] = ""

    @property
    def id(self) -> str:
        """The pair's id."""
        return self.pair.id

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    def run_of(self, donor: Donor) -> PatchedPrompt:
        """Return the item whose prompt is the donor's own."""
        return dataclasses.replace(self, prompt=donor.prompt, forms=donor.forms)

    @property
    def firsts(self) -> list[list[int]]:
        """Distinct first tokens of each outcome's forms."""
        return [list(dict.fromkeys(form[0] for form in forms)) for forms in self.forms.values()]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Variants of a patch: the hook point and mask of each.

    Attributes:
        hook: Hook point within the layer.
        masks: Per layer a (variant, position or 1, ...) mask of what a variant overwrites; a layer left out is not patched.
        onward: Whether a variant of a layer overwrites all later layers of `masks` as well.
    """

    hook: str
    masks: dict[int, Bool[torch.Tensor, "variant ..."]]
    onward: bool = False

    def rows(self, layers: Sequence[int], values: torch.Tensor, positions: slice) -> list[Intervention]:
        """Make the interventions of these layers; values are (prompt, layer of the model, position, ...)."""

        def overwrite(layer: int) -> Intervention:
            return replace_where(self.hook, layer, self.masks[layer], values[:, layer, None], positions=positions)

        def onward(layer: int) -> tuple[Intervention, ...]:
            return tuple(overwrite(other) for other in sorted(self.masks) if other > layer) if self.onward else ()

        return [dataclasses.replace(overwrite(layer), later=onward(layer)) for layer in layers]


@dataclass(frozen=True, kw_only=True)
class DonorRun:
    """Activations and outcomes of an item's donor prompts.

    Attributes:
        values: (layer, position, ...) mean activations for the positions to overwrite.
        log_prob: (outcome,) of the donors' own runs (log of the mean probability), as `Patched.log_prob`.
    """

    values: torch.Tensor
    log_prob: Float[torch.Tensor, " outcome"]


@torch.no_grad()
def run_donors(
    backend: Backend,
    hook: str,
    items: Sequence[PatchedPrompt],
    *,
    whole: bool = False,
    batch_size: int,
    progress: str = "",
) -> list[DonorRun]:
    """Run every donor prompt once, and record the activations and outcomes that the items need.

    Raises:
        ValueError: NaN or infinity in an activation (names layer and pair).
    """
    prompts = list(dict.fromkeys(donor.prompt for item in items for donor in item.donors))
    uses: dict[int, list[tuple[int, int]]] = {}
    for number, item in enumerate(items):
        for slot, donor in enumerate(item.donors):
            uses.setdefault(prompts.index(donor.prompt), []).append((number, slot))
    activations: list[list[torch.Tensor]] = [[torch.empty(0)] * len(item.donors) for item in items]
    scores: list[list[torch.Tensor]] = [[torch.empty(0)] * len(item.donors) for item in items]
    recorder = Recorder(backend, hook)

    def run(tokens: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            hidden, _ = backend.hidden(tokens)
        for row, index in enumerate(indices):
            for number, slot in uses[index]:
                donor = items[number].donors[slot]
                activations[number][slot] = torch.stack([kept[row, list(donor.positions)] for kept in recorder.kept])
                _check_finite(activations[number][slot], hook, items[number].id)
                scores[number][slot] = first_tokens(backend, hidden[row, -1:], items[number].run_of(donor))[0]

    run_batched(prompts, run, batch_size=batch_size, progress=progress)
    if whole:
        scores = [[whole_values(backend, item.run_of(donor)) for donor in item.donors] for item in items]
    return [
        DonorRun(
            values=torch.stack(of_item).mean(0),
            log_prob=torch.stack(score).logsumexp(0) - torch.tensor(len(score)).log(),
        )
        for of_item, score in zip(activations, scores, strict=True)
    ]


def _check_finite(values: torch.Tensor, hook: str, name: str) -> None:
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        layer = int((~finite).nonzero()[0])
        raise ValueError(f"NaN or infinity at {hook} of layer {layer} in a source of {name}; use a wider dtype")


@torch.no_grad()
def patched_log_probs(
    backend: Backend,
    sweep: Sweep,
    items: Sequence[PatchedPrompt],
    values: Sequence[torch.Tensor],
    *,
    whole: bool = False,
    batch_size: int,
    progress: str = "",
) -> list[Float[torch.Tensor, "row outcome"]]:
    """Compute the log-probability (nats) of each outcome in the clean run and then in each variant, layer by layer.

    Args:
        backend: The model.
        sweep: Activations to overwrite.
        items: Prompts to overwrite.
        values: (layer, position, ...) donor activations of each item.
        whole: Whether to sum over all tokens of each form, which is forced, instead of its first token alone.
        batch_size: Prompts at a time, at first.
        progress: Label of a progress bar; none without.

    Returns:
        Per item (1 + variants, outcome); an outcome's forms are alternatives, so their probabilities add up.
    """
    tails = [(number, form) for number, item in enumerate(items) for form in (_distinct_forms(item) if whole else [()])]
    log_probs: list[torch.Tensor] = [torch.empty(0)] * len(tails)

    def batch_key(index: int) -> tuple[int, ...]:
        number, form = tails[index]
        return (len(items[number].prompt), len(form), *items[number].positions)

    def work(indices: list[int]) -> None:
        chosen = [items[tails[index][0]] for index in indices]
        of_items = torch.stack([values[tails[index][0]] for index in indices])
        hidden = _run(backend, sweep, chosen, of_items, [tails[index][1][:-1] for index in indices])
        for index, item, states in zip(indices, chosen, hidden, strict=True):
            form = tails[index][1]
            log_probs[index] = (
                forced_log_prob(backend, states[:, -len(form) :], torch.tensor(form))
                if whole
                else first_tokens(backend, states[:, -1], item)
            )

    run_in_batches(len(tails), work, key=batch_key, group=batch_key, batch_size=batch_size, progress=progress)
    if not whole:
        return log_probs
    by_item = [
        {form: score for (number, form), score in zip(tails, log_probs, strict=True) if number == n}
        for n in range(len(items))
    ]
    return [_outcome_log_probs(item, scores) for item, scores in zip(items, by_item, strict=True)]


def whole_values(backend: Backend, item: PatchedPrompt) -> Float[torch.Tensor, " outcome"]:
    """Compute the log-probability (nats) of each outcome's whole forms after the unpatched prompt."""
    scores = {}
    for form in _distinct_forms(item):
        hidden, _ = backend.hidden(torch.tensor([[*item.prompt, *form[:-1]]]))
        scores[form] = forced_log_prob(backend, hidden[:, -len(form) :], torch.tensor(form))
    return _outcome_log_probs(item, scores)[0]


def _run(
    backend: Backend, sweep: Sweep, items: Sequence[PatchedPrompt], values: torch.Tensor, tails: Sequence[Form]
) -> Float[torch.Tensor, "item row read d_model"]:
    """Compute the final hidden states of the clean run and all variants, from the prompt's last position on.

    Rows that do not fit the memory at once are run some layers at a time.
    """
    tokens = torch.tensor([[*item.prompt, *tail] for item, tail in zip(items, tails, strict=True)])
    positions, n_read = items[0].positions, 1 + len(tails[0])
    start, span = positions[0], slice(0, len(positions))
    past = backend.hidden(tokens[:, :start])[1] if start else None
    max_variants = rows_that_fit(backend, tokens.shape[1] - start, start) // len(items)
    parts: list[torch.Tensor] = []
    for layers in _layer_groups(sweep, max_variants):
        states = run_interventions(backend, tokens[:, start:], sweep.rows(layers, values, span), past=past)
        parts += [
            *([] if parts else [states.clean[:, None, -n_read:]]),
            *(one[:, :, -n_read:] for one in states.edited),
        ]
    return torch.cat(parts, dim=1)


def _layer_groups(sweep: Sweep, max_variants: int) -> list[list[int]]:
    """Group layers in order, with at most `max_variants` variants in a group; a layer with more is a group of its own."""
    groups: list[list[int]] = [[]]
    room = max_variants
    for layer in sorted(sweep.masks):
        n = len(sweep.masks[layer])
        if groups[-1] and n > room:
            groups.append([])
            room = max_variants
        groups[-1].append(layer)
        room -= n
    return groups


def _distinct_forms(item: PatchedPrompt) -> list[Form]:
    return list(dict.fromkeys(form for forms in item.forms.values() for form in forms))


def first_tokens(
    backend: Backend, hidden: Float[torch.Tensor, "row d_model"], item: PatchedPrompt
) -> Float[torch.Tensor, "row outcome"]:
    """Compute the log-probability (nats) of each outcome's first tokens together; differentiable in `hidden`."""
    tokens = list(dict.fromkeys(token for tokens in item.firsts for token in tokens))
    targets = torch.tensor(tokens, device=hidden.device).expand(len(hidden), -1)
    scores = token_log_prob(hidden, backend.unembed, targets, **backend.unembed_options)
    columns = [[tokens.index(token) for token in firsts] for firsts in item.firsts]
    return torch.stack([scores[:, column].logsumexp(1) for column in columns], dim=1)


def _outcome_log_probs(item: PatchedPrompt, scores: dict[Form, torch.Tensor]) -> Float[torch.Tensor, "row outcome"]:
    return torch.stack(
        [torch.stack([scores[form] for form in forms]).logsumexp(0) for forms in item.forms.values()], dim=1
    )
