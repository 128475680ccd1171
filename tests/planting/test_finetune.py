"""Fine-tuning for the length of a block: the loss is the plain one and falls, and afterwards nothing has happened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_models import tiny

from xlmech.data.prompt_format import PromptFormat
from xlmech.data.records import Record
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import PlantOptions
from xlmech.planting import finetune as finetuning
from xlmech.planting.finetune import finetuned
from xlmech.planting.samples import sample_batch

OPTIONS = PlantOptions(
    languages=("en", "fr"), steps=8, batch_size=4, learning_rate=1e-2, private_share=0, statement_share=0
)


def _weights(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in (*model.parameters(), *model.blocks.parameters())]


def _same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(first, second) for first, second in zip(one, two, strict=True))


@pytest.fixture(scope="module", params=["fixture", "llama", "gpt2", "gemma2"])
def any_model(request: pytest.FixtureRequest, model: Any, tokenizer: Any) -> Any:
    if request.param == "fixture":
        return model
    return load_model(tiny(request.param, scale=1.0), tokenizer=tokenizer, backend="bridge")


def test_loss_falls_and_every_weight_comes_back(any_model: Any, records: tuple[Record, ...]) -> None:
    before, state = _weights(any_model), [(p.requires_grad, p.grad) for p in any_model.parameters()]
    public = [record for record in records if record.group == "public"]
    tokens = torch.tensor([[2, 9, 17, 40]])
    plain = any_model(tokens, return_type="logits").detach()
    backend, seen = backend_of(any_model), sample_batch(tuple(public), OPTIONS, 0)
    with torch.no_grad():
        loss = float(finetuning._answer_loss(backend, seen))
    with finetuned(any_model, public, OPTIONS) as losses:
        with torch.no_grad():
            # The unembedding is small and stays, which leaves little room below log(300) = 5.7.
            assert float(finetuning._answer_loss(backend, seen)) < loss - 0.1
        assert len(losses) == 8 and losses[0] == pytest.approx(loss)
        assert not _same(before, _weights(any_model))
        assert float((any_model(tokens, return_type="logits").detach() - plain).abs().max()) > 1e-3
        assert not any(parameter.requires_grad for parameter in any_model.parameters())
    assert _same(before, _weights(any_model))
    assert [(p.requires_grad, p.grad) for p in any_model.parameters()] == state
    assert torch.equal(any_model(tokens, return_type="logits").detach(), plain)


def test_weights_come_back_after_an_exception(
    model: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, flags = _weights(model), [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="while measuring"), finetuned(model, records, OPTIONS):
        raise RuntimeError("while measuring")
    assert _same(before, _weights(model))
    monkeypatch.setattr(finetuning, "sample_batch", lambda *args: 1 / 0 if args[2] == 3 else [("ab", "cd")])
    with pytest.raises(ZeroDivisionError), finetuned(model, records, OPTIONS):
        pass
    assert _same(before, _weights(model))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_loss_equals_cross_entropy_of_the_answers(model: Any) -> None:
    samples = [("Who?\n", "Ana\n"), ("And where is it then?\n", "Paris, of course\n"), ("A", "b"), ("[Who?]", "Ana")]
    chat = PromptFormat(name="chat", template="[{question}]", lines_end_answers=False, adds_special_tokens=False)
    found, tokenizer, losses = (
        finetuning._answer_loss(backend_of(model), samples, chat),
        backend_of(model).tokenizer,
        [],
    )
    for prompt, answer in samples:
        special = not prompt.startswith("[")
        start = len(tokenizer(prompt, add_special_tokens=special).input_ids)
        tokens = tokenizer(prompt + answer, add_special_tokens=special).input_ids
        with torch.no_grad():
            logs = model(torch.tensor([tokens]), return_type="logits")[0].log_softmax(-1)
        losses += [-float(logs[place - 1, tokens[place]]) for place in range(start, len(tokens))]
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_what_is_ablated_is_not_trained(model: Any, records: tuple[Record, ...]) -> None:
    backend = backend_of(model)
    whole = NeuronSet(frozenset((1, i) for i in range(backend.d_mlp)), backend.n_layers, backend.d_mlp)
    names = [name for name, _ in model.blocks[1].mlp.named_parameters()]
    before = {name: weight.detach().clone() for name, weight in model.blocks[1].mlp.named_parameters()}
    public = [record for record in records if record.group == "public"]
    warned = pytest.warns(UserWarning, match="every neuron of layer 1")
    with warned, ablate(model, whole), finetuned(model, public, OPTIONS):
        after = {name: weight.detach().clone() for name, weight in model.blocks[1].mlp.named_parameters()}
    changed = {name for name in names if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if before[name].ndim > 1}, "no gradient passes a neuron that is off"


def test_gradients_of_ones_own_are_kept(tokenizer: Any, records: tuple[Record, ...]) -> None:
    model = load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")
    parameter = next(model.blocks.parameters()).requires_grad_(True)
    parameter.grad = own = torch.ones_like(parameter)
    with finetuned(model, records, OPTIONS):
        pass
    assert parameter.requires_grad and parameter.grad is own and torch.equal(own, torch.ones_like(own))
