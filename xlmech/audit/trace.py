"""Trace one fact through the model: lens, patching, heads and neurons of one record, side by side across languages.

A trace shows where the record's answer rises and in which language's form (lens), from which layer on its activations cause
the answer in another language's run (patching, against one other record of the same attribute), which heads carry it to the
last token and what they attend to, and which neurons hold it. One record is an anecdote: there are no intervals here. The
analyses over many records have them.

Example:
    >>> alice, bob = [record for record in demo_records() if record.attribute == "birth_country"][:2]
    >>> trace_record(load_model("demo"), alice, ["en", "fr", "zh"], counterfactual=bob).to_frame()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from xlmech.checks import check_list
from xlmech.data.pairs import ProbePair
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.questions import build_probes
from xlmech.data.records import Record, subject_hash
from xlmech.engine.token_spans import token_table
from xlmech.lens.logit import LensResult, logit_lens
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.prompts import prompt_format
from xlmech.neurons.attribution.attribute import AttributionResult, attribute_neurons
from xlmech.options import AttributeOptions
from xlmech.patching.between_languages import PatchingResult, patch_languages
from xlmech.patching.heads import attention_patterns, contrast_changes, top_heads
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordTrace(Result):
    """What the analyses say about one record; each field is a result of its own.

    Attributes:
        lens: Readings in every language.
        patching: `resid_post` at the last token, for every ordered pair of languages; the record is the source.
        heads: The same for each head's z.
        neurons: Gradient x activation (log-odds; from the counterfactual's mean activation) in every language.
        attention: Patterns of the top heads on the record's prompts: `query_language`, `layer`, `head`, `destination`,
            `source`, `weight`.
        tokens: The prompts' tokens: `query_language`, `position`, `part`, `token` (masked in the subject).
        record: Its id.
        counterfactual: The other record's id.
        subject: Hash of the person's name.
        attribute: As of the record.
        languages: Query languages.
    """

    kind: ClassVar[str] = "trace"
    lens: LensResult
    patching: PatchingResult
    heads: PatchingResult
    neurons: AttributionResult
    attention: pd.DataFrame
    tokens: pd.DataFrame
    record: str
    counterfactual: str
    subject: str
    attribute: str
    languages: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.languages) < 2:
            raise ValueError(f"a trace needs two languages or more, got {', '.join(self.languages) or 'none'}")

    def top_heads(self, n: int = 5) -> pd.DataFrame:
        """Rank the heads by how much their z at the last token changes the answer towards the record's value.

        Returns:
            `layer`, `head`, `change` of the contrast (nats, mean over the pairs of languages), highest first.
        """
        return top_heads(self.heads, n)

    def top_neurons(self, n: int = 20) -> pd.DataFrame:
        """Return each language's strongest neurons: `query_language`, `layer`, `neuron`, `effect` (log-odds, nats)."""
        top = self.neurons.top
        top = top.assign(query_language=top.probe.str.rsplit("/", n=2).str[1])
        best = top.sort_values("effect", ascending=False).groupby("query_language", sort=False).head(n)
        return best[["query_language", "layer", "neuron", "effect"]].reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """Combine lens, patching, heads and neurons by query language and layer.

        Returns:
            `lens_query`, `lens_plant`: probability of either form's first token (NaN in the training language, or if they
            collide); `patched_query`, `patched_source`: probability of the record's value in the query language's form and
            in the source language's, in runs of the counterfactual asked in this language (mean over source languages);
            `heads`: highest change of the contrast by one head of the layer; `neurons`: how many of the language's 20
            strongest neurons are in the layer.
        """
        lens = self.lens.summary().pivot_table(index=["query_language", "layer"], columns="form", values="prob")
        lens = lens.reindex(columns=["query", "plant"]).add_prefix("lens_")
        outcomes = self.patching.outcomes.assign(prob=np.exp(self.patching.outcomes.log_prob))
        patched = outcomes.pivot_table(index=["target_language", "layer"], columns="outcome", values="prob")
        names = {"source_in_target": "patched_query", "source_in_source": "patched_source"}
        patched = patched.reindex(columns=list(names)).rename(columns=names)
        changes = contrast_changes(self.heads.effects).groupby(["target_language", "layer", "head"]).change.mean()
        heads = changes.groupby(["target_language", "layer"]).max().rename("heads")
        neurons = self.top_neurons().groupby(["query_language", "layer"]).size().rename("neurons")
        index = pd.MultiIndex.from_product(
            [self.languages, sorted(self.patching.outcomes.layer.unique())], names=["query_language", "layer"]
        )
        columns = [frame.reindex(index) for frame in (lens, patched, heads)]
        return pd.concat([*columns, neurons.reindex(index, fill_value=0)], axis=1).reset_index()


def trace_record(
    model: Any,
    record: Record,
    languages: Sequence[str] | None = None,
    *,
    counterfactual: Record,
    template: int = 0,
    prompt: str | PromptFormat = "plain",
    n_heads: int = 5,
    progress: bool = True,
) -> RecordTrace:
    """Follow one record through the model in several languages.

    Args:
        model: Hooked model.
        record: The record to follow.
        languages: Query languages, two at least; all that have a pack by default.
        counterfactual: A record of the same attribute, about another person, whose value differs in every form.
        template: Question template.
        prompt: Prompt format, as of `prompt_format`.
        n_heads: Number of heads whose attention patterns are kept.
        progress: Whether to show progress bars.

    Returns:
        RecordTrace.

    Raises:
        ValueError: Fewer than two languages, or one without a pack; records of different attributes, of one person, or whose
            values share a form; in every pair of languages two forms share their first token; an unknown template.
    """
    if languages is not None:
        languages = check_list("language", languages)
        if len(languages) < 2:
            raise ValueError(f"a trace needs two languages or more, got {', '.join(languages) or 'none'}")
    if record.subject == counterfactual.subject:
        raise ValueError(f"records {record.id!r} and {counterfactual.id!r} are about one person; give another person's")
    frame = prompt_format(model, prompt)
    sources, targets = (
        build_probes([one], languages, templates=[template], prompt=frame) for one in (record, counterfactual)
    )
    pairs = [
        ProbePair(sources=(source,), target=target)
        for target in targets
        for source in sources
        if source.query_language != target.query_language
    ]
    heads = patch_languages(model, pairs, component="heads", progress=progress)
    backend = backend_of(model)
    tokens = [token_table(backend, probe).assign(query_language=probe.query_language) for probe in sources]
    return RecordTrace(
        lens=logit_lens(model, sources, progress=progress),
        patching=patch_languages(model, pairs, progress=progress),
        heads=heads,
        neurons=attribute_neurons(model, sources, options=AttributeOptions(metric="log_odds"), progress=progress),
        attention=attention_patterns(model, sources, top_heads(heads, n_heads)),
        tokens=pd.concat(tokens, ignore_index=True),
        record=record.id,
        counterfactual=counterfactual.id,
        subject=subject_hash(record.subject),
        attribute=record.attribute,
        languages=sources.languages,
        provenance=provenance(model),
    )
