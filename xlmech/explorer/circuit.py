"""Compute what a state shows: every number by one of the library's own functions, when it is asked for, and once.

circuit = Circuit(load_model("demo"), demo_records(), languages=["en", "fr", "es"])
state = circuit.start()
circuit.answers(state.at(ablated=frozenset({(13, 7)})))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd

from xlmech.checks import check_choice
from xlmech.data.attributes import Attribute
from xlmech.data.probes import ProbeSet
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.records import MASK, Record
from xlmech.explorer.memory import Memory, remembered
from xlmech.explorer.questions import Questions
from xlmech.explorer.state import Component, ExplorerState
from xlmech.leakage.written import written_answers
from xlmech.lens.logit import LensResult, logit_lens
from xlmech.lens.predictions import (
    LensPredictions,
    begins_word,
    predicted_tokens,
    secret_tokens,
    secret_words,
)
from xlmech.mitigation.fluency import cost_of, neutral_nll
from xlmech.models.backends import backend_of
from xlmech.models.load import model_name, plant_language
from xlmech.models.prompts import prompt_format
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.attribute import AttributionResult, attribute_neurons
from xlmech.neurons.attribution.single import ablation_effects
from xlmech.neurons.evidence.interpret import promoted_tokens
from xlmech.neurons.neuron_set import Neuron, NeuronSet, pairs_of
from xlmech.neurons.selection.published import lape
from xlmech.patching.answers import patched_answer
from xlmech.patching.between_languages import PatchingResult, patch_languages
from xlmech.patching.heads import attention_patterns, top_heads
from xlmech.patching.positions import PositionSweep, patch_positions

MAX_NEW_TOKENS = 32
"""Room for a phone number or an address of single digits and letters, and less than what a rambling answer would take."""
N_NEUTRAL = 1
"""A hint of the cost while neurons are ticked, no measurement: `evaluate_mitigation` takes more texts."""
N_HEADS = 5
N_PROMOTED = 5


class Circuit:
    """One model and the records it is asked about.

    Every method takes an `ExplorerState` and depends on its fields alone. Answers, layers, flow and attention are those of the
    model with the state's neurons ablated; attributions are those of the model as it is.

    Attributes:
        model: Hooked model.
        questions: The records, and how they are asked.
        prompt: Prompt format, as it was given.
        max_new_tokens: Budget of new tokens per answer.
        n_neutral: Neutral texts per language for the fluency cost.
        memory: What was computed.
    """

    def __init__(
        self,
        model: Any,
        records: Iterable[Record],
        languages: Sequence[str] | None = None,
        *,
        kinds: Iterable[Attribute] = (),
        prompt: str | PromptFormat = "auto",
        max_new_tokens: int = MAX_NEW_TOKENS,
        n_neutral: int = N_NEUTRAL,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.questions = Questions(
            records, languages, kinds=kinds, frame=prompt_format(model, prompt), plant_language=plant_language(model),
        )  # fmt: skip
        self.max_new_tokens = max_new_tokens
        self.n_neutral = n_neutral
        self.memory = Memory()

    def start(self, record: str = "", *, reveal: bool = False) -> ExplorerState:
        """Return the state of a record, the first private one by default."""
        return self.questions.start(record, reveal=reveal)

    def check(self, state: ExplorerState) -> None:
        """Raise ValueError for a state that names what the model or the records do not have."""
        self.questions.check(state)
        check_choice("component", state.component, Component)
        n_layers = self.neuron_set(state.ablated).n_layers
        if state.layer is not None:
            check_choice("layer", state.layer, range(n_layers))
        if state.position is not None and state.position < 0:
            raise ValueError(f"position {state.position}: tokens are counted from 0")

    def neuron_set(self, neurons: Iterable[Neuron]) -> NeuronSet:
        """Make a set of this model's neurons."""
        backend = backend_of(self.model)
        return NeuronSet(frozenset(neurons), backend.n_layers, backend.d_mlp, model_name(self.model))

    @contextmanager
    def _ablated(self, state: ExplorerState) -> Iterator[None]:
        with ExitStack() as stack:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "every neuron of layer")  # the controls say so
                stack.enter_context(ablate(self.model, self.neuron_set(state.ablated)))
            yield

    # Answers

    @remembered("record", "languages", "template", "form", "ablated", "reveal")
    def written(self, state: ExplorerState) -> pd.DataFrame:
        """What the model answers in every language, as of `written_answers`, with the neurons ablated."""
        with self._ablated(state):
            return written_answers(
                self.model, self.questions.probes(state), candidates=self.questions.records, form=state.form or None,
                max_new_tokens=self.max_new_tokens, reveal=state.reveal,
            )  # fmt: skip

    @remembered("languages", "ablated")
    def _nll(self, state: ExplorerState) -> pd.Series:
        with self._ablated(state):
            return neutral_nll(self.model, state.languages, n_neutral=self.n_neutral)

    def cost(self, state: ExplorerState) -> pd.DataFrame:
        """What the ablation costs on neutral text: `query_language`, `nll_before`, `nll_after` (nats per token), `rise`."""
        return cost_of(self._nll(state.at(ablated=frozenset())), self._nll(state))

    def answers(self, state: ExplorerState) -> pd.DataFrame:
        """Compare the answers before and after the ablation.

        Returns:
            One row per language: the columns of `written_answers`, with `_before` what they were without ablation
            (`prob_before`, `log_prob_before`, `extracted_before`, `answer_language_before`, `answer_before`).
        """
        after, before = self.written(state), self.written(state.at(ablated=frozenset()))
        columns = ["prob", "log_prob", "extracted", "answer_language", "answer", "empty", "truncated"]
        return after.join(before[columns].add_suffix("_before"))

    # Layers

    @remembered("record", "languages", "template", "ablated")
    def lens(self, state: ExplorerState) -> LensResult:
        """Read every layer in every language, at the token that predicts the answer."""
        with self._ablated(state):
            return logit_lens(self.model, self.questions.probes(state), progress=False)

    @remembered("record", "language", "template", "ablated", "reveal")
    def predictions(self, state: ExplorerState) -> LensPredictions:
        """List the likeliest tokens of every layer and token of the prompt in one language."""
        with self._ablated(state):
            return predicted_tokens(
                self.model, self.questions.probe(state), records=self.questions.records, reveal=state.reveal
            )

    # Flow

    @remembered("record", "other", "source", "language", "template", "component", "ablated")
    def flow(self, state: ExplorerState) -> PositionSweep:
        """Patch every layer and token of the other record's prompt by this record's, from the source language."""
        with self._ablated(state):
            return patch_positions(self.model, self.questions.pair(state), component=state.component, progress=False)

    @remembered("record", "other", "source", "language", "template", "component", "layer", "position", "ablated")
    def patched(self, state: ExplorerState) -> str:
        """What the model writes with the selected cell patched; it may hold personal values."""
        if state.layer is None:
            raise ValueError("no layer is selected; click a cell of the flow, or give layer=")
        with self._ablated(state):
            return patched_answer(
                self.model, self.questions.pair(state), layer=state.layer, position=state.position, component=state.component,
                max_new_tokens=self.max_new_tokens,
            )  # fmt: skip

    # Neurons

    @remembered("record", "language", "template")
    def attribution(self, state: ExplorerState) -> AttributionResult:
        """Attribute the record's answer to neurons, in the language that is looked at."""
        return attribute_neurons(self.model, ProbeSet((self.questions.probe(state),)), progress=False)

    def ranked(self, state: ExplorerState, n: int = 20) -> pd.DataFrame:
        """List the strongest neurons in one language: `layer`, `neuron`, `effect` (nats per answer token), strongest first."""
        top = self.attribution(state).top.sort_values("effect", ascending=False, kind="stable")
        return top[["layer", "neuron", "effect"]].head(n).reset_index(drop=True)

    @remembered("record", "language", "template")
    def exact(self, state: ExplorerState, n: int = 20) -> pd.DataFrame:
        """Ablate each of the ranked neurons alone: `layer`, `neuron`, `effect`, as of `ablation_effects`."""
        frame = self.ranked(state, n)
        chosen = self.neuron_set(pairs_of(frame))
        return ablation_effects(self.model, ProbeSet((self.questions.probe(state),)), chosen)

    @remembered("record", "language", "template")
    def promoted(self, state: ExplorerState, n: int = 20) -> pd.DataFrame:
        """List the tokens that each of the ranked neurons writes to the output, as of `promoted_tokens`."""
        frame = self.ranked(state, n)
        chosen = self.neuron_set(pairs_of(frame))
        return promoted_tokens(self.model, chosen, k=N_PROMOTED)

    @remembered("record", "language", "template", "reveal")
    def raised(self, state: ExplorerState, n: int = 20) -> dict[Neuron, list[str]]:
        """Return the tokens that each of the ranked neurons raises most, without those of names and values unless `reveal`."""
        backend = backend_of(self.model)
        secret, words = set[str](), frozenset[str]()
        if not state.reveal:
            probe, records = self.questions.probe(state), self.questions.records
            secret = {backend.tokenizer.decode([token]) for token in secret_tokens(backend, probe, records)}
            words = secret_words(probe, records)
        frame = self.promoted(state, n).query("side == 'raised'")
        raised: dict[Neuron, list[str]] = {}
        for pair, token in zip(pairs_of(frame), frame.token, strict=True):
            raised.setdefault(pair, []).append(MASK if token in secret or begins_word(token, words) else str(token))
        return raised

    @remembered("record", "language", "template")
    def public(self, state: ExplorerState) -> AttributionResult | None:
        """Attribute public facts of the same attribute; None if there are none."""
        probes = self.questions.public(state)
        return attribute_neurons(self.model, probes, progress=False) if len(probes) else None

    @remembered("languages")
    def language_neurons(self, state: ExplorerState) -> dict[str, NeuronSet]:
        """Find each language's own neurons on neutral text, as of `lape`; none with one language."""
        return lape(self.model, state.languages, progress=False) if len(state.languages) > 1 else {}

    # Attention

    @remembered("record", "other", "source", "language", "template", "ablated")
    def heads(self, state: ExplorerState) -> PatchingResult:
        """Patch each head at the last token, from the source language to the one that is looked at."""
        with self._ablated(state):
            return patch_languages(self.model, [self.questions.pair(state)], component="heads", progress=False)

    @remembered("record", "other", "source", "language", "template", "ablated")
    def attention(self, state: ExplorerState) -> pd.DataFrame:
        """Record what the heads that carry the answer attend to, as of `attention_patterns`."""
        heads = top_heads(self.heads(state), N_HEADS)
        with self._ablated(state):
            return attention_patterns(self.model, ProbeSet((self.questions.probe(state),)), heads)

    @remembered("record", "other", "template", "ablated")
    def contributions(self, state: ExplorerState, language: str) -> PositionSweep:
        """Patch every layer and token in one language alone: by which tokens of the prompt does the answer come?"""
        with self._ablated(state):
            return patch_positions(self.model, self.questions.pair(state, language, language), progress=False)
