"""Turn pairs of probes into prompts to overwrite: tokens, aligned positions, forms, collisions, components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float

from xlmech.checks import check_choice
from xlmech.data.pairs import ProbePair
from xlmech.data.probes import Probe
from xlmech.engine.token_spans import Span, aligned_positions
from xlmech.models.backends import Backend
from xlmech.models.tokens import EncodedProbe, encode_probe
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.runs import Donor, Form, PatchedPrompt, Sweep

Component = Literal["resid_pre", "resid_post", "attn_out", "mlp_out", "heads", "neurons"]
Direction = Literal["denoising", "noising"]
HOOKS = {"heads": "attn.hook_z", "neurons": "mlp.hook_post"}


def check_pairs(pairs: Sequence[ProbePair]) -> None:
    """Raise ValueError unless there are pairs, all different.

    Raises:
        ValueError: No pairs, something else than pairs, or one twice.
    """
    if not len(pairs):
        raise ValueError("no pairs to patch; make them with ProbeSet.pairs(source=..., target=...)")
    for pair in pairs:
        if not isinstance(pair, ProbePair):
            raise ValueError(
                f"expected a ProbePair, got {type(pair).__name__}; make pairs with ProbeSet.pairs, or "
                "ProbePair(sources=(source,), target=target)"
            )
    ids = [pair.id for pair in pairs]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"pair {twice} is given twice; an interval over pairs needs different ones")


def hook_of(backend: Backend, component: Component) -> str:
    """Return the hook point of a component within the layer.

    Raises:
        ValueError: An unknown component, or one that the architecture lacks (names those it has).
    """
    check_choice("component", component, Component)
    hook = HOOKS.get(component, f"hook_{component}")
    backend.hook_name(hook, 0)
    return hook


def sweep_of(
    backend: Backend, component: Component, *, neurons: NeuronSet | None = None, onward: bool = False
) -> Sweep:
    """Make a sweep with one variant per layer, or per layer and head.

    Raises:
        ValueError: As `hook_of`; neurons without their component or the other way round, or none, or out of range.
    """
    hook = hook_of(backend, component)
    if (component == "neurons") != (neurons is not None):
        raise ValueError(f"component {component!r} and neurons={neurons!r} do not fit; give both, or neither")
    rest = (1, 1, 1) if component == "heads" else (1, 1)
    whole = torch.ones(1, *rest, dtype=torch.bool)
    masks = dict.fromkeys(range(backend.n_layers), whole)
    if component == "heads":
        one_each = torch.eye(int(backend.model.cfg.n_heads), dtype=torch.bool)[:, None, :, None]
        masks = dict.fromkeys(masks, one_each)
    if neurons is not None:
        masks = _neuron_masks(backend, neurons)
    return Sweep(hook=hook, masks=masks, onward=onward)


def _neuron_masks(backend: Backend, neurons: NeuronSet) -> dict[int, torch.Tensor]:
    if not len(neurons):
        raise ValueError("the set of neurons to patch is empty")
    if (neurons.n_layers, neurons.d_mlp) != (backend.n_layers, backend.d_mlp):
        raise ValueError(
            f"the neurons are of a model of {neurons.n_layers} layers of {neurons.d_mlp}; this one has {backend.n_layers} "
            f"of {backend.d_mlp}"
        )
    masks = {}
    for layer, chosen in neurons.by_layer().items():
        masks[layer] = torch.zeros(1, 1, backend.d_mlp, dtype=torch.bool)
        masks[layer][..., chosen] = True
    return masks


def patched_prompt(backend: Backend, pair: ProbePair, *, span: Span, direction: Direction) -> PatchedPrompt:
    """Encode the prompt to overwrite and its donor prompts.

    Raises:
        ValueError: Noising with several sources; as `aligned_positions`; a form or prompt that tokenises to nothing or is
            too long.
    """
    run, donors = pair.target, pair.sources
    if direction == "noising":
        if len(donors) > 1:
            raise ValueError(f"pair {pair.id}: noising runs the source, so it takes one source language, not several")
        run, donors = donors[0], (pair.target,)
    outcomes = pair.outcomes()
    widened = [_with_outcomes(probe, outcomes) for probe in (run, *donors)]
    encoded, *of_donors = (encode_probe(backend, probe, languages=_keys(outcomes)) for probe in widened)
    aligned = [aligned_positions(backend, donor, widened[0], span) for donor in widened[1:]]
    return PatchedPrompt(
        pair=pair,
        prompt=encoded.prompt,
        positions=tuple(position for position, _ in aligned[0]),
        donors=tuple(
            Donor(prompt=donor.prompt, positions=tuple(place for _, place in places), forms=_forms(donor, outcomes))
            for donor, places in zip(of_donors, aligned, strict=True)
        ),
        forms=_forms(encoded, outcomes),
        n_straddling=max(item.n_straddling for item in (encoded, *of_donors)),
    )


def _with_outcomes(probe: Probe, outcomes: Mapping[str, Sequence[str]]) -> Probe:
    """Add the outcomes' forms to a probe's answers, so that they are encoded after its prompt, which is cut for them too."""
    forms = {f"{outcome}:{number}": form for outcome, texts in outcomes.items() for number, form in enumerate(texts)}
    return replace(probe, answers=probe.answers | forms)


def _keys(outcomes: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{outcome}:{number}" for outcome, texts in outcomes.items() for number in range(len(texts))]


def _forms(encoded: EncodedProbe, outcomes: Mapping[str, Sequence[str]]) -> dict[str, tuple[Form, ...]]:
    return {
        outcome: tuple(encoded.answers[f"{outcome}:{number}"] for number in range(len(texts)))
        for outcome, texts in outcomes.items()
    }


def without_shared_firsts(item: PatchedPrompt) -> PatchedPrompt:
    """Drop forms in the source's language whose first token is that of the same value's form in the target's language.

    Of a value that both languages write alike ("Portugal") it can be told that it is predicted, not in which language's form: the
    outcome in the target's form stands for both.
    """
    kept: dict[str, list[int]] = {}
    for outcome, forms in item.forms.items():
        other = outcome.replace("_in_source", "_in_target")
        shared = {form[0] for form in item.forms[other]} if other != outcome else set()
        if left := [number for number, form in enumerate(forms) if form[0] not in shared]:
            kept[outcome] = left

    def of_kept(forms: Mapping[str, tuple[Form, ...]]) -> dict[str, tuple[Form, ...]]:
        return {outcome: tuple(forms[outcome][number] for number in numbers) for outcome, numbers in kept.items()}

    donors = tuple(replace(donor, forms=of_kept(donor.forms)) for donor in item.donors)
    return replace(item, forms=of_kept(item.forms), donors=donors)


def collides(item: PatchedPrompt) -> bool:
    """Tell whether forms of two outcomes share their first token, so that it does not tell which of them is predicted."""
    firsts = [set(tokens) for tokens in item.firsts]
    return sum(map(len, firsts)) > len(set().union(*firsts))


def contrast(log_prob: Float[torch.Tensor, "*row outcome"], outcomes: Sequence[str]) -> Float[torch.Tensor, " *row"]:
    """Compute the log-odds of the source's value against the target's, each in any of the forms (nats)."""
    source, target = (
        log_prob[..., [number for number, name in enumerate(outcomes) if name.startswith(f"{record}_in")]].logsumexp(-1)
        for record in ("source", "target")
    )
    return source - target
