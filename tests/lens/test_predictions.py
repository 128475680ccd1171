"""The likeliest tokens of every layer and position: the model's own at the last layer, and nobody's name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.people import person

from xlmech.data.questions import build_probes
from xlmech.data.records import MASK
from xlmech.lens.logit import logit_lens
from xlmech.lens.predictions import begins_word, predicted_tokens, secret_tokens, secret_words
from xlmech.models.backends import backend_of

PROBE = build_probes([person(0)], ["fr"], templates=[0])[0]


def test_the_last_layer_is_the_models_output(model: Any) -> None:
    found = predicted_tokens(model, PROBE, k=3, reveal=True)
    tokens = torch.tensor([model.tokenizer(PROBE.prompt).input_ids])
    with torch.no_grad():
        probs = model(tokens)[0].softmax(-1)
    last = found.cells[found.cells.layer == found.cells.layer.max()]
    best = probs.topk(3)
    assert last.prob.tolist() == pytest.approx(best.values.flatten().tolist(), rel=1e-4)
    assert last.token.tolist() == [model.tokenizer.decode([token]) for token in best.indices.flatten().tolist()]
    assert len(found.tokens) == tokens.shape[1] and "".join(found.tokens.token[1:]) == PROBE.prompt
    assert found.best()["rank"].eq(1).all() and len(found.best()) == 3 * tokens.shape[1]


def test_entropies_are_the_lens_own(model: Any) -> None:
    cells = predicted_tokens(model, PROBE, k=1).cells
    lens = logit_lens(model, build_probes([person(0)], ["fr"], templates=[0]), positions="all", progress=False).readings
    lens = lens.drop_duplicates(["layer", "position"]).sort_values(["layer", "position"])
    assert cells.entropy.tolist() == pytest.approx(lens.entropy.tolist(), rel=1e-4)


def test_names_and_values_are_masked(model: Any) -> None:
    vocabulary = backend_of(model).unembed.shape[0]
    shown = predicted_tokens(model, PROBE, k=vocabulary, records=[person(2)])
    first = shown.cells[(shown.cells.layer == 0) & (shown.cells.position == 1)]
    letters = {letter for text in (*PROBE.answers.values(), PROBE.record.subject, person(2).subject) for letter in text}
    assert not letters - {" "} & set(first.token)
    assert set(shown.tokens.token[shown.tokens.part == "subject"]) == {MASK}
    forms = first[first.form != ""]
    assert {"en", "fr", "es"} <= set(forms.form) <= set(PROBE.answers) and set(forms.token) == {MASK}
    bare = predicted_tokens(model, PROBE, k=vocabulary, reveal=True).cells
    assert MASK not in set(bare.token) and bare.prob.tolist() == shown.cells.prob.tolist()
    assert not {" ", ","} & {model.tokenizer.decode([token]) for token in secret_tokens(backend_of(model), PROBE)}


def test_what_is_not_possible_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to the vocabulary's 300, got 0"):
        predicted_tokens(model, PROBE, k=0)


def test_beginnings_of_names_and_values_are_hidden_in_any_case_and_however_they_are_cut() -> None:
    words = frozenset({"megan", "chang", "bibliothécaire"})
    assert all(begins_word(text, words) for text in ("chang", " Chang", " bibli", "BIB"))
    assert not any(begins_word(text, words) for text in ("", " ", "ch", "hang", "changing"))
    mine, others = secret_words(PROBE), secret_words(PROBE, [person(1)])
    assert set(PROBE.record.subject.casefold().split()) <= mine
    assert set(PROBE.answers["fr"].casefold().split()) <= mine < others
