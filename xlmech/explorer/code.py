"""Write a state as three lines of Python that give the same numbers, for a notebook of one's own.

The lines use `model` and `records`, which are those that the explorer was given (and `kinds` and `prompt`, if those were given as
objects), and leave their numbers in `result`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from xlmech.checks import check_choice
from xlmech.explorer.circuit import N_HEADS, N_PROMOTED, Circuit
from xlmech.explorer.state import ExplorerState
from xlmech.neurons.neuron_set import NeuronSet, pairs_of

Panel = Literal[
    "answers",
    "cost",
    "lens",
    "predictions",
    "flow",
    "patched",
    "attribution",
    "exact",
    "promoted",
    "heads",
    "attention",
]


def code_of(circuit: Circuit, state: ExplorerState, panel: Panel) -> str:
    """Write what a panel shows as three lines of Python, the last of which assigns `result`.

    Args:
        circuit: The model and the records.
        state: What is looked at.
        panel: Whose numbers; each is the `Circuit` method of the same name (`answers` those after ablation, `written`).

    Raises:
        ValueError: An unknown panel, or one that needs another record or a selected layer where there is none.
    """
    check_choice("panel", panel, Panel)
    if panel in ("flow", "patched", "heads", "attention"):
        circuit.questions.pair(state)  # raises if there is none
        middle = _pair(circuit, state)
    elif panel in ("predictions", "attribution", "exact", "promoted"):
        middle = f"probes = {_probes(circuit, state, state.record, (state.language,))}"
    else:
        middle = f"probes = {_probes(circuit, state, state.record, state.languages)}"
    call = _call(circuit, state, panel)
    if panel in ("attribution", "exact", "promoted") or not state.ablated:
        return f"import xlmech\n{middle}\nresult = {call}"
    ablated = neurons_code(circuit.neuron_set(state.ablated))
    return f"import xlmech\n{middle}\nwith xlmech.ablate(model, {ablated}): result = {call}"


def neurons_code(neurons: NeuronSet) -> str:
    """Write a set of neurons as Python; whole layers as a range."""
    whole = neurons.whole_layers()
    singles = [pair for pair in neurons if pair[0] not in whole]
    parts = [f"*((layer, index) for layer in {whole} for index in range({neurons.d_mlp}))"] if whole else []
    inside = ", ".join([*map(str, singles), *parts])
    pairs = f"frozenset({{{inside}}})" if inside else "frozenset()"
    return f"xlmech.NeuronSet({pairs}, {neurons.n_layers}, {neurons.d_mlp}, {neurons.model!r})"


def _probes(circuit: Circuit, state: ExplorerState, record: str, languages: Iterable[str]) -> str:
    given = f"[one for one in records if one.id == {record!r}], {list(languages)!r}, templates=[{state.template}]"
    return f"xlmech.build_probes({given}{_kinds(circuit)}, prompt={_prompt(circuit)})"


def _kinds(circuit: Circuit) -> str:
    return ", kinds=kinds" if circuit.questions.kinds else ""


def _prompt(circuit: Circuit) -> str:
    return f"xlmech.prompt_format(model, {circuit.prompt!r})" if isinstance(circuit.prompt, str) else "prompt"


def _pair(circuit: Circuit, state: ExplorerState) -> str:
    source, target = (
        _probes(circuit, state, record, (language,))
        for record, language in ((state.record, state.source), (state.other, state.language))
    )
    return f"pair = xlmech.ProbePair(sources=tuple({source}), target={target}[0])"


def _call(circuit: Circuit, state: ExplorerState, panel: Panel) -> str:
    """Write the call that gives a panel's numbers."""
    form = f", form={state.form!r}" if state.form else ""
    reveal = ", reveal=True" if state.reveal else ""
    budget = f", max_new_tokens={circuit.max_new_tokens}"
    if panel == "patched":
        if state.layer is None:
            raise ValueError("no layer is selected; click a cell of the flow, or give layer=")
        place = f"layer={state.layer}, position={state.position}, component={state.component!r}{budget}"
        return f"xlmech.patched_answer(model, pair, {place})"
    if panel in ("exact", "promoted"):
        chosen = circuit.neuron_set(pairs_of(circuit.ranked(state)))
        if panel == "exact":
            return f"xlmech.ablation_effects(model, probes, {neurons_code(chosen)})"
        return f"xlmech.promoted_tokens(model, {neurons_code(chosen)}, k={N_PROMOTED})"
    heads = "xlmech.patch_languages(model, [pair], component='heads', progress=False)"
    if panel == "attention":
        probe = _probes(circuit, state, state.record, (state.language,))
        return f"xlmech.attention_patterns(model, {probe}, xlmech.top_heads({heads}, {N_HEADS}))"
    return {
        "answers": f"xlmech.written_answers(model, probes, candidates=records{form}{budget}{reveal})",
        "cost": f"xlmech.neutral_nll(model, {list(state.languages)!r}, n_neutral={circuit.n_neutral})",
        "lens": "xlmech.logit_lens(model, probes, progress=False)",
        "predictions": f"xlmech.predicted_tokens(model, probes[0], records=records{reveal})",
        "flow": f"xlmech.patch_positions(model, pair, component={state.component!r}, progress=False)",
        "attribution": "xlmech.attribute_neurons(model, probes, progress=False)",
        "heads": heads,
    }[panel]
