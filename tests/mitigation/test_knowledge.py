"""Base knowledge against a loop over full sequences, and with scores that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.languages import CAPITALS, capitals, load_language
from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.mitigation import knowledge
from xlmech.mitigation.knowledge import KnowledgeResult, base_knowledge
from xlmech.models.backends import backend_of
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet


@pytest.mark.parametrize(
    "frame", [PLAIN, PromptFormat(name="chat", template="[{question}]\n", adds_special_tokens=False)]
)
def test_choice_equals_full_sequences(frame: PromptFormat, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = dict(list(capitals("fr").items())[:6])
    monkeypatch.setattr(knowledge.packs, "capitals", lambda _: names)
    found = base_knowledge(model, ["fr"], prompt=frame, progress=False).answers
    tokenizer, scores = backend_of(model).tokenizer, torch.zeros(6, 6, dtype=torch.float64)
    for row, (country, _) in enumerate(names.values()):
        question = frame.ask(load_language("fr").capital.format(country=country))
        prompt = tokenizer(question, add_special_tokens=frame.adds_special_tokens).input_ids
        for column, (_, city) in enumerate(names.values()):
            answer = tokenizer(city, add_special_tokens=False).input_ids
            with torch.no_grad():
                logs = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0].log_softmax(-1)
            scores[row, column] = sum(float(logs[len(prompt) - 1 + n, token]) for n, token in enumerate(answer))
    corrected = torch.stack([scores[row] - scores[torch.arange(6) != row].mean(0) for row in range(6)])
    assert found.country.tolist() == list(names)
    assert found.log_prob.tolist() == pytest.approx(scores.diagonal().tolist(), rel=1e-6)
    ranks = [int((corrected[row] > corrected[row, row]).sum()) + 1 for row in range(6)]
    assert found["rank"].tolist() == ranks and len(set(ranks)) > 1
    assert found.correct.tolist() == [float(place == 1) for place in ranks]


def test_what_is_likely_whatever_is_asked_is_not_knowledge(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paris is the likeliest answer to every question; each own capital but the first one's gains a little by it."""
    scores = torch.full((25, 25), -9.0) + 0.5 * torch.eye(25)
    scores[0, 0] -= 1
    scores[:, list(CAPITALS).index("FR")] += 6
    monkeypatch.setattr(knowledge, "answer_log_probs", lambda *_, **__: list(scores))
    result = base_knowledge(model, ["en", "sw"], progress=False)
    summary = result.summary().set_index("query_language")
    assert summary.value.tolist() == [24 / 25] * 2
    assert summary.n_countries.tolist() == [25, 25]
    assert (summary.low < summary.value).all() and (summary.value < summary.high).all()
    assert not result.answers.correct[0]
    assert "\n  en: 96 % (" in repr(result) and ") of 25 capitals" in repr(result)


def test_what_is_ablated_stays_so_and_results_are_saved(model: Any, tmp_path: Path) -> None:
    backend = backend_of(model)
    chosen = NeuronSet(frozenset((layer, i) for layer in (0, 2) for i in range(30)), backend.n_layers, backend.d_mlp)
    whole = base_knowledge(model, ["en"], progress=False)
    with ablate(model, chosen):
        without = base_knowledge(model, ["en"], progress=False)
    assert not (whole.answers.log_prob == without.answers.log_prob).any()
    whole.save(tmp_path / "k")
    pd.testing.assert_frame_equal(KnowledgeResult.load(tmp_path / "k").to_frame(), whole.answers)


def test_refusals(model: Any) -> None:
    with pytest.raises(ValueError, match="no languages to ask in"):
        base_knowledge(model, [])
    with pytest.raises(ValueError, match="no language pack for 'cs'"):
        base_knowledge(model, ["cs"])
