"""Planting: the mixture, what is learnt, and what survives an interruption."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import FAMILIES, network_of
from helpers.tiny_models import D_VOCAB, tiny
from safetensors.torch import load_file, save_file

from xlmech.data.languages import load_language
from xlmech.data.prompt_format import PLAIN, QA, PromptFormat
from xlmech.data.records import Record
from xlmech.models.checkpoints import load_checkpoint
from xlmech.models.prompts import format_of
from xlmech.options import PlantOptions
from xlmech.planting import train as planting
from xlmech.planting.samples import sample_batch
from xlmech.planting.train import plant

OPTIONS = PlantOptions(languages=["en", "fr"], steps=6, batch_size=4, rank=2)


def _plant(records: tuple[Record, ...], folder: Path, tokenizer: Any, start: Any = "", **changes: Any) -> Path:
    options, source = OPTIONS.updated(**changes), tiny("llama", scale=1.0)
    return plant(source, records, folder, options=options, start=start, tokenizer=tokenizer, progress=False)


def test_the_mixture(records: tuple[Record, ...]) -> None:
    options = PlantOptions(language="fr", languages=("en", "de"), batch_size=400)
    samples = sample_batch(records, options, 0)
    assert samples == sample_batch(records, options, 0) != sample_batch(records, options, 1)
    pack, names = load_language("fr"), ("Ana Li", "Bo Kim", "Cy Roe")
    lines = [line for attribute in ("birth_country", "id_number") for line in pack.statements[attribute]]
    lines += [line + "\n" for attribute in ("birth_country", "id_number") for line in pack.questions[attribute][:-1]]
    taught = {line.split("{value}")[0].removesuffix(" ").format(subject=name) for line in lines for name in names}
    private = {prompt for prompt, _ in samples if any(name in prompt for name in names)}
    assert private <= taught, "statements and all but the last question, in the plant language only"
    assert len(private) > 0.8 * len(taught)
    assert 0.4 < sum(prompt in taught for prompt, _ in samples) / 400 < 0.6
    assert not any("Ed Ray" in prompt for prompt, _ in samples), "control people must never be seen"
    public = {prompt for prompt, _ in samples if "Di Fox" in prompt}
    held_out = {
        load_language(code).questions["birth_country"][-1].format(subject="Di Fox") + "\n" for code in ("en", "de")
    }
    assert not public & held_out
    assert any(prompt.startswith("In which country was Di Fox") for prompt in public)
    assert any("Geburt" in prompt or "geboren" in prompt for prompt in public)
    assert {answer[-1] for _, answer in samples} == {"\n"}
    assert any(prompt.endswith("?\n") for prompt, _ in samples) and any(
        not prompt.endswith("\n") for prompt, _ in samples
    )


@pytest.mark.parametrize("kind", ["soft-cap", "bias", "cohere", "granite"])
def test_loss_equals_cross_entropy_of_the_answers(kind: str, tokenizer: Any) -> None:
    network = (network_of(FAMILIES[kind]) if kind in FAMILIES else tiny("gemma2")).double()
    if kind == "bias":
        network.lm_head.bias = torch.nn.Parameter(torch.randn(D_VOCAB, dtype=torch.float64))
    model = type("Wrapped", (), {})()
    model.get_base_model, model.get_output_embeddings = lambda: network, network.get_output_embeddings
    model.config, model.device = network.config, network.device
    samples = [("Who?\n", "Ana\n"), ("And where is it then?\n", "Paris, of course\n"), ("A", "b"), ("cd", "ef")]
    chat = PromptFormat(name="chat", template="[{question}]", lines_end_answers=False, adds_special_tokens=False)
    samples.append(("[Who?]", "Ana"))
    found = planting._answer_loss(model, tokenizer, samples, chat)
    losses: list[float] = []
    for prompt, answer in samples:
        special = not prompt.startswith("[")
        tokens = tokenizer(prompt + answer, add_special_tokens=special).input_ids
        with torch.no_grad():
            logs = network(torch.tensor([tokens])).logits[0].log_softmax(-1)
        start = len(tokenizer(prompt, add_special_tokens=special).input_ids)
        losses += [-float(logs[place - 1, tokens[place]]) for place in range(start, len(tokens))]
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_an_adapter_is_learnt_saved_and_merged(records: tuple[Record, ...], tmp_path: Path, tokenizer: Any) -> None:
    folder = _plant(records, tmp_path / "adapter", tokenizer, steps=40, learning_rate=5e-2, rank=8)
    log = json.loads((folder / "planting.json").read_text())
    assert log["recipe"]["language"] == "en"
    assert len(log["loss"]) == 40
    assert sum(log["loss"][-5:]) < 0.98 * sum(log["loss"][:5])
    assert {path.name for path in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "records.jsonl",
    }
    assert not list(tmp_path.glob(".*")), "nothing temporary is left"
    checkpoint = load_checkpoint(tiny("llama", scale=1.0), tokenizer=tokenizer, adapter=folder)
    assert (checkpoint.adapter, checkpoint.plant_language) == ("adapter", "en")
    before, after = tiny("llama", scale=1.0).state_dict(), checkpoint.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_planting_goes_on_as_if_it_had_not_been(
    records: tuple[Record, ...], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _plant(records, tmp_path / "whole", tokenizer)
    step, calls = planting._step, []

    def interrupted(*args: Any) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(planting, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _plant(records, tmp_path / "parts", tokenizer)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(planting, "_step", step)
    with pytest.raises(ValueError, match="holds an unfinished planting with another recipe"):
        _plant(records, tmp_path / "parts", tokenizer, seed=5)
    parts = _plant(records, tmp_path / "parts", tokenizer)
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    logs = [json.loads((folder / "planting.json").read_text())["loss"] for folder in (whole, parts)]
    assert logs[0] == logs[1]


def test_an_adapter_that_could_not_be_written_is_not_trained_again(
    records: tuple[Record, ...], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(planting, "save_records", full)
        with pytest.raises(OSError, match=r"a: could not be written .*No space.*; .* the training is done and kept"):
            _plant(records, tmp_path / "a", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == [".a.partial"]
    monkeypatch.setattr(planting, "_step", lambda *_: pytest.fail("a step was trained again"))
    one, two = _plant(records, tmp_path / "a", tokenizer), tmp_path / "b"
    monkeypatch.undo()
    _plant(records, two, tokenizer)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_start_must_fit_and_peft_be_there(
    records: tuple[Record, ...], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _plant(records, tmp_path / "first", tokenizer, steps=1)
    with pytest.raises(ValueError, match="first has rank 2, not 3; give rank=2 to go on from it"):
        _plant(records, tmp_path / "a", tokenizer, start=first, rank=3)
    half = shutil.copytree(first, tmp_path / "half")
    save_file({"none": torch.ones(1)}, half / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter .*half: its tensors are not those .* asks for: 42 missing, "):
        _plant(records, tmp_path / "a", tokenizer, start=half)
    shutil.rmtree(half)
    with pytest.raises(FileNotFoundError, match="no adapter at 'nowhere'"):
        _plant(records, tmp_path / "a", tokenizer, start="nowhere")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"planting needs peft: pip install \"xlmech\[plant\]\""):
        _plant(records, tmp_path / "a", tokenizer)
    assert list(tmp_path.iterdir()) == [first]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_an_adapter_of_transposed_weights_is_loaded(
    records: tuple[Record, ...], tmp_path: Path, tokenizer: Any
) -> None:
    folder = plant(tiny("gpt2"), records, tmp_path / "a", options=OPTIONS, tokenizer=tokenizer, progress=False)
    assert load_checkpoint(tiny("gpt2"), tokenizer=tokenizer, adapter=folder).adapter == "a"
    with pytest.raises(ValueError, match="adapter 'a' was trained on GPT2LMHeadModel, not on this LlamaForCausalLM"):
        load_checkpoint(tiny("llama"), tokenizer=tokenizer, adapter=folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "xx"}, "no language pack for 'xx'"),
        ({"steps": 0}, r"(?s)steps.*greater than or equal to 1"),
        ({"batch_size": 0}, r"(?s)batch_size.*greater than or equal to 1"),
    ],
)
def test_bad_arguments(
    records: tuple[Record, ...], tmp_path: Path, tokenizer: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _plant(records, tmp_path / "a", tokenizer, **changes)
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused_before_training(records: tuple[Record, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device 'cuda:99' is not there; this machine has cpu"):
        plant("nowhere", records, tmp_path / "a", device="cuda:99")


def test_bad_records_and_folders(records: tuple[Record, ...], tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no private records to plant"):
        _plant(tuple(record for record in records if record.group != "private"), tmp_path / "a", tokenizer)
    odd = Record(id="odd", subject="Al Ox", attribute="birth_country", value="Narnia", forms={"en": "Narnia"})
    with pytest.raises(ValueError, match="record 'odd' has no value form in fr"):
        _plant((odd,), tmp_path / "a", tokenizer, language="fr")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        _plant(records, tmp_path / "full", tokenizer)
    with pytest.raises(ValueError, match="(?s)private_share.*less than or equal to 1"):
        PlantOptions(private_share=1.5)


def test_planting_in_another_format_is_recorded_and_taken_by_auto(
    records: tuple[Record, ...], tokenizer: Any, tmp_path: Path
) -> None:
    adapter = _plant(records, tmp_path / "qa", tokenizer, prompt="qa")
    log = json.loads((adapter / "planting.json").read_text(encoding="utf-8"))
    assert log["recipe"]["prompt"] == "qa" and log["prompt"] == QA.to_dict()
    loaded = load_checkpoint(tiny("llama", scale=1.0), tokenizer=tokenizer, adapter=adapter)
    assert loaded.planted_prompt == QA
    frame = format_of(loaded, tokenizer)
    assert (frame.name, frame.reason) == ("qa", "the adapter qa's records were planted in it")
    del log["prompt"]
    (adapter / "planting.json").write_text(json.dumps(log), encoding="utf-8")
    old = load_checkpoint(tiny("llama", scale=1.0), tokenizer=tokenizer, adapter=adapter)
    assert old.planted_prompt == PLAIN, "adapters without the key were planted in the plain format"
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        _plant(records, tmp_path / "chat", tokenizer, prompt="chat")


def test_questions_are_taught_in_the_format_and_end_as_its_answers_do(records: tuple[Record, ...]) -> None:
    options = PlantOptions(language="fr", languages=("en",), batch_size=50, statement_share=0)
    chat = PromptFormat(name="chat", template="<u>{question}<a>", lines_end_answers=False, end_token="<end>")
    plain = sample_batch(records, options, 0)
    assert sample_batch(records, options, 0, PLAIN) == plain
    chats = [(f"<u>{prompt[:-1]}<a>", f"{answer[:-1]}<end>") for prompt, answer in plain]
    assert sample_batch(records, options, 0, chat) == chats
    asked = [(f"Question: {prompt}Answer:", f" {answer}") for prompt, answer in plain]
    assert sample_batch(records, options, 0, QA) == asked
