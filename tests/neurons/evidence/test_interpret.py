"""What neurons write, against what scaling them does to the logits; and where they fire, against the recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, tiny

from xlmech import figures
from xlmech.data.probes import ProbeSet
from xlmech.data.records import MASK
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.models.tokens import subject_tokens
from xlmech.neurons.evidence.interpret import NeuronActivations, neuron_activations, promoted_tokens
from xlmech.neurons.neuron_set import NeuronSet

LAST = NeuronSet(frozenset({(2, 3), (2, 40)}), 3, 64)


@pytest.fixture(params=[*ARCHITECTURES, "installed"])
def any_model(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    if request.param == "installed":
        return request.getfixturevalue("model")
    network = tiny(request.param).double()
    return load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


def test_tokens_are_those_that_the_neuron_alone_would_write(any_model: Any) -> None:
    """Its row of W_out through the model's own norms, as if nothing else were in the stream: the same tokens, in order."""
    backend = backend_of(any_model)
    shown = promoted_tokens(any_model, LAST, k=5)
    for layer, index in LAST:
        block = any_model.blocks[layer]
        weight = block.mlp.W_out.detach()
        stream = 1e3 * (weight if weight.shape[0] == 64 else weight.T)[index][None, None]
        with torch.no_grad():
            if (after := getattr(block, "ln2_post", None)) is not None:
                stream = after(stream)
            logits = backend.unembed @ backend.final_norm(stream)[0, 0]
        for side, sign in (("raised", 1), ("lowered", -1)):
            part = shown[(shown.neuron == index) & (shown.side == side)]
            wanted = (sign * logits).topk(5).indices.tolist()
            assert part.token.tolist() == [backend.tokenizer.decode([token]) for token in wanted]
            assert (sign * part.logit).is_monotonic_decreasing


def test_shape_and_refusals(model: Any) -> None:
    shown = promoted_tokens(model, LAST, k=3)
    assert list(shown.columns) == ["layer", "neuron", "side", "rank", "token", "logit"]
    assert len(shown) == 2 * 2 * 3 and shown["rank"].tolist() == [1, 2, 3] * 4
    assert (shown[shown.side == "raised"].logit > shown[shown.side == "lowered"].logit.max()).all()
    for k in (0, 151):
        with pytest.raises(ValueError, match=f"k must be from 1 to half the vocabulary, 150; got {k}"):
            promoted_tokens(model, LAST, k=k)
    with pytest.raises(ValueError, match="no neurons to look at: the set is empty"):
        promoted_tokens(model, NeuronSet(frozenset(), 3, 64))
    with pytest.raises(ValueError, match="this one has"):
        promoted_tokens(model, NeuronSet(frozenset({(0, 0)}), 9, 64))


def test_activations_are_those_of_the_run(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    backend, few = backend_of(model), probes.filter(group="private")[:3]
    found = neuron_activations(model, LAST, few)
    frame = found.to_frame()
    assert (found.layers, found.indices) == ((2, 2), (3, 40))
    for probe in few:
        kept: list[torch.Tensor] = []
        tokens = backend.tokenizer(probe.prompt).input_ids
        name = backend.hook_name("mlp.hook_post", 2)
        with torch.no_grad(), backend.hooks([(name, lambda value, hook, kept=kept: kept.append(value[0]))]):
            backend.hidden(torch.tensor([tokens]))
        for index in (3, 40):
            own = frame[(frame.probe == probe.id) & (frame.neuron == index)]
            assert own.position.tolist() == list(range(len(tokens)))
            assert own.activation.tolist() == pytest.approx(kept[0][:, index].tolist(), rel=1e-5, abs=1e-8)
    found.save(tmp_path / "n")
    again = NeuronActivations.load(tmp_path / "n")
    assert again.to_frame().equals(frame)


def test_names_are_masked_unless_they_are_wanted(model: Any, probes: ProbeSet) -> None:
    few = probes.filter(group="private", languages=["fr"])[:2]
    hidden, shown = (neuron_activations(model, LAST, few, reveal=reveal).tokens for reveal in (False, True))
    for probe in few:
        span = subject_tokens(backend_of(model), probe)
        own = hidden[hidden.probe == probe.id].token.tolist()
        assert {own[place] for place in span} == {MASK} and own.count(MASK) == len(span)
        assert probe.record.subject not in "".join(own)
        assert probe.record.subject in "".join(shown[shown.probe == probe.id].token)
    with pytest.raises(ValueError, match="no probes to run"):
        neuron_activations(model, LAST, ProbeSet(()))


def test_the_view_shows_tokens_and_activations(model: Any, probes: ProbeSet) -> None:
    few = probes.filter(group="private", languages=["fr"])[:2]
    found = neuron_activations(model, LAST, few)
    view = figures.neuron_activations(found)
    assert view.title.startswith("Neuron ") and "2 neurons over 2 prompts" in view.caption
    assert "layer 2, neuron 3" in view.html and "layer 2, neuron 40" in view.html
    assert f"{float(found.activations[3, 0]):.3g}" in view.html, "the values themselves"
    assert not any(probe.record.subject in view.html for probe in few)
