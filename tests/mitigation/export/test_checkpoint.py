"""Export: transformers alone reads back the model that hooks made."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.tiny_models import ALL_ARCHITECTURES, D_MLP, N_LAYERS, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from xlmech.data.prompt_format import QA, PromptFormat
from xlmech.data.records import Record
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.export import checkpoint as export
from xlmech.mitigation.export.checkpoint import export_model
from xlmech.mitigation.export.down_projection import down_projections
from xlmech.mitigation.export.manifest import Manifest, load_manifest
from xlmech.models.load import load_model
from xlmech.models.prompts import prompt_format
from xlmech.models.sources.cards import MANIFEST
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame
from xlmech.options import PlantOptions
from xlmech.planting.train import plant
from xlmech.storage.integrity import sha256
from xlmech.storage.result import Provenance

TOKENS = torch.tensor([[2, 7, 8, 9, 11, 40, 100]])
CHOSEN = frozenset({(0, 3), (0, 10), (2, 5)})
NAN = float("nan")
WITH_BIAS = ("gpt2", "gpt_neox", "bloom", "falcon")


def _width(architecture: str) -> int:
    return 128 if architecture in ("bloom", "falcon") else D_MLP  # four times d_model


def _neurons(architecture: str = "llama", model: str = "") -> NeuronSet:
    return NeuronSet(CHOSEN, N_LAYERS, _width(architecture), model)


def _values(architecture: str) -> torch.Tensor:
    return torch.randn(N_LAYERS, _width(architecture), generator=torch.Generator().manual_seed(1))


def _reloaded(folder: Path) -> torch.Tensor:
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


def _hooked(architecture: str, tokenizer: Any, **ablation: Any) -> torch.Tensor:
    model = load_model(tiny(architecture), tokenizer=tokenizer, backend="bridge")
    with torch.no_grad(), ablate(model, _neurons(architecture), **ablation):
        return model(TOKENS, return_type="logits")


def exported(*arguments: Any, **options: Any) -> Manifest:
    """What these tests are about is the weights: nothing was measured of them."""
    return export_model(*arguments, without_effect=True, **options)


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_reloaded_is_the_hooked_run(architecture: str, tokenizer: Any, tmp_path: Path) -> None:
    source = tiny(architecture)
    with torch.no_grad():
        plain = source(TOKENS).logits
    for mode, factor in (("zero", 0.0), ("scale", -0.5)):
        folder = tmp_path / mode
        manifest = exported(source, _neurons(architecture), folder, tokenizer=tokenizer, factor=factor)
        found = _reloaded(folder)
        assert _same(found, _hooked(architecture, tokenizer, mode=mode, factor=factor))
        assert (manifest.mode, manifest.factor) == (mode, factor)
        assert not _same(found, plain)
        assert manifest.verification["max_relative_error"] < 1e-5 < manifest.verification["max_relative_change"]
    with torch.no_grad():
        assert torch.equal(source(TOKENS).logits, plain)  # the caller's model is as it was


def _gates(architecture: str = "llama", model: str = "") -> NeuronGates:
    drawn = torch.rand(2, N_LAYERS, _width(architecture), generator=torch.Generator().manual_seed(3))
    factors = torch.where(drawn[0] < 0.5, drawn[1], 1.0)
    factors[0, 3] = 0
    return NeuronGates(factors=factors, model=model, provenance=Provenance(model="m"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_gates_are_scaled_columns(architecture: str, dtype: torch.dtype, tokenizer: Any, tmp_path: Path) -> None:
    """The reloaded checkpoint is the run under hooks, in an architecture's own layout of its weights."""
    gates, source = _gates(architecture), tiny(architecture).to(dtype)
    manifest = exported(source, gates, tmp_path / "out", tokenizer=tokenizer)
    assert manifest.mode == "gates" and manifest.neurons == gates.neurons(0)
    assert manifest.factors == tuple(float(gates.factors[neuron]) for neuron in manifest.neurons)
    assert load_manifest(tmp_path / "out") == manifest
    (name, part), before = (
        down_projections(network, _width(architecture))[1]
        for network in (AutoModelForCausalLM.from_pretrained(tmp_path / "out"), source)
    )
    after, weight = ((one.weight if one.weight.shape[1] == gates.d_mlp else one.weight.T) for one in (part, before[1]))
    wanted = (weight * gates.factors[1]).to(dtype)
    assert torch.equal(after, wanted), name
    if dtype == torch.float32:
        hooked = load_model(tiny(architecture), tokenizer=tokenizer, backend="bridge")
        with torch.no_grad(), ablate(hooked, gates):
            assert _same(_reloaded(tmp_path / "out"), hooked(TOKENS, return_type="logits"))


def test_the_card_names_gates(tokenizer: Any, tmp_path: Path) -> None:
    gates = _gates()
    result = measured(HELPED, n=len(gates))
    manifest = export_model(tiny("llama"), gates, tmp_path / "out", tokenizer=tokenizer, mitigation=result)
    assert manifest.effective
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"# LlamaForCausalLM with {len(gates)} gates applied\n" in card
    assert "MLP neurons multiplied by learned factors between 0 and 1 (gates) in the\nweights" in card
    mean = float(gates.factors[gates.factors < 1].mean())
    assert f"The mean factor of these neurons is {mean:.2f}, the lowest 0.00" in card
    assert "source with the same gates applied by hooks" in card


@pytest.mark.parametrize("architecture", WITH_BIAS)
def test_mean_goes_into_the_bias(architecture: str, tokenizer: Any, tmp_path: Path) -> None:
    values = _values(architecture)
    manifest = exported(
        tiny(architecture), _neurons(architecture), tmp_path / "out", tokenizer=tokenizer, values=values
    )
    assert _same(_reloaded(tmp_path / "out"), _hooked(architecture, tokenizer, mode="mean", values=values))
    assert manifest.mode == "mean" and manifest.values == tuple(float(values[neuron]) for neuron in sorted(CHOSEN))
    assert load_manifest(tmp_path / "out").values == manifest.values


def test_mean_needs_a_bias(tokenizer: Any, tmp_path: Path) -> None:
    wanted = r"model.layers.0.mlp.down_proj has no bias .* its weights can express a factor"
    with pytest.raises(ValueError, match=wanted):
        exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer, values=_values("llama"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_a_source_and_an_export_too(tokenizer: Any, tmp_path: Path) -> None:
    tiny("qwen2").save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    one, other = (NeuronSet(frozenset({neuron}), N_LAYERS, D_MLP, "source") for neuron in ((0, 1), (1, 2)))
    exported(tmp_path / "source", one | other, tmp_path / "both")
    exported(tmp_path / "source", one, tmp_path / "one")
    exported(tmp_path / "one", other.for_model("one"), tmp_path / "then")
    torch.testing.assert_close(_reloaded(tmp_path / "then"), _reloaded(tmp_path / "both"), rtol=0, atol=0)


def measured(*overall: tuple[float, float, float, float, float], n: int = 3) -> MitigationResult:
    """Of `n` neurons: before, after, reduction, low and high over all languages; nothing told of these without."""
    effects = pd.DataFrame(
        {"condition": ["neurons", "random"], "group": "private", "query_language": "fr", "before": 0.5, "after": [0.1, 0.5],
         "reduction": [0.8, 0.0], "low": [0.7, float("nan")], "high": [0.9, float("nan")]}
    )  # fmt: skip
    rows = pd.DataFrame(overall, columns=["before", "after", "reduction", "low", "high"])
    return MitigationResult(
        effects=effects,
        cost=pd.DataFrame({"condition": ["neurons"], "query_language": ["fr"], "rise": [0.004]}),
        sizes={"neurons": n, "random": 3},
        total_neurons=192,
        overall=rows.assign(condition="neurons", group="private") if overall else pd.DataFrame(),
        provenance=Provenance(model="m"),
    )


HELPED = (0.5, 0.1, 0.8, 0.7, 0.9)


def test_manifest_round_trip_and_card(tokenizer: Any, tmp_path: Path) -> None:
    made = export_model(tiny("gemma3"), _neurons(), tmp_path / "out", tokenizer=tokenizer, mitigation=measured(HELPED))
    read = load_manifest(tmp_path / "out")
    assert read == made
    assert read.neurons == _neurons()
    assert read.mitigation is not None and read.mitigation["effects"][1]["low"] is None
    assert read.mitigation["overall"][0]["low"] == 0.7
    assert read.effective is True
    told = "extraction over all query languages was 50.0% before and 10.0% after, a reduction of 80.0% (95 % interval 70.0% to"
    assert read.effect.startswith(told)
    assert read.provenance.versions["transformers"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| neurons | private | fr | 0.500 | 0.100 | 0.800 | 0.700 | 0.900 | 0.004 |" in card
    assert "| 0 | 2 |" in card and "What this is not" in card
    assert "# Gemma3ForCausalLM with 3 privacy neurons ablated\n" in card and "No effect" not in card
    with pytest.raises(ValueError, match=r"measured with \[3\] neurons, and 1 are exported"):
        few = NeuronSet(frozenset({(0, 1)}), N_LAYERS, D_MLP)
        exported(tiny("llama"), few, tmp_path / "few", tokenizer=tokenizer, mitigation=measured(HELPED))
    with pytest.raises(ValueError, match=r"measured with \[9\] neurons, and 3 are exported"):  # a control's 3
        exported(tiny("llama"), _neurons(), tmp_path / "few", tokenizer=tokenizer, mitigation=measured(HELPED, n=9))


def test_an_exported_checkpoint_is_asked_as_it_was_measured(tokenizer: Any, tmp_path: Path) -> None:
    asked = PromptFormat(name="chat", template="<u>{question}```<a>", adds_special_tokens=False, end_token="<eos>")
    result = replace(measured(HELPED), prompt=asked.to_dict())
    made = export_model(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer, mitigation=result)
    assert load_manifest(tmp_path / "out").prompt == made.prompt == asked.to_dict()
    frame = prompt_format(load_model(tmp_path / "out", backend="bridge"))
    assert replace(frame, reason="given") == asked
    assert frame.reason == "the audit of this checkpoint asked in it, as its xlmech_manifest.json says"
    assert (
        prompt_format(
            load_model(
                AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
                tokenizer=AutoTokenizer.from_pretrained(tmp_path / "out"),
                backend="bridge",
            )
        )
        == frame
    )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "In the prompt format `chat`" in card and "````text\n<u>{question}```<a>\n````\n" in card
    again = exported(tmp_path / "out", NeuronSet(frozenset({(1, 1)}), N_LAYERS, D_MLP), tmp_path / "again")
    assert again.prompt == asked.to_dict(), "of an export of an export"


def test_a_merged_planted_checkpoint_is_asked_as_it_was_planted(
    records: tuple[Record, ...], tokenizer: Any, tmp_path: Path
) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = PlantOptions(steps=1, batch_size=2, prompt="qa")
    plant(tmp_path / "base", records, tmp_path / "taught", options=options, progress=False)
    made = exported(tmp_path / "base", _neurons(), tmp_path / "out", adapter=tmp_path / "taught")
    assert made.prompt == QA.to_dict()
    frame = prompt_format(load_model(tmp_path / "out", backend="bridge"))
    assert (frame.name, frame.template) == ("qa", QA.template) and "xlmech_manifest.json" in frame.reason


def test_a_checkpoint_of_unknown_format_is_asked_as_any_other(tokenizer: Any, tmp_path: Path) -> None:
    made = exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    assert made.prompt is None and "## Asked" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    model = load_model(tmp_path / "out", backend="bridge")
    assert prompt_format(model).reason == "the tokenizer has no chat template"
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({"prompt": {"name": "qa", "colour": 1}}), encoding="utf-8")
    with pytest.raises(ValueError, match="does not read its prompt format; name one with prompt="):
        prompt_format(model)
    for broken in ("{", "[]"):
        (tmp_path / "out" / MANIFEST).write_text(broken, encoding="utf-8")
        with pytest.raises(
            ValueError, match="not a manifest of export_model, so the format of its prompts is not known"
        ):
            prompt_format(model)
    assert prompt_format(model, "qa").name == "qa"


NOT_MEASURED = {
    "nothing given": (None, "no measured result was given"),
    "an older result": (measured(), "the measured result does not tell the reduction over all query languages"),
    "nothing leaked": (
        measured((0.0, 0.0, NAN, NAN, NAN)),
        "nothing was extracted about the private people before ablation",
    ),
    "it rose": (measured((0.4, 0.5, -0.25, -0.5, -0.1)), "was 40.0% before and 50.0% after: it did not fall"),
    "all the same": (measured((0.4, 0.4, 0.0, 0.0, 0.0)), "was 40.0% before and 40.0% after: it did not fall"),
    "by chance": (
        measured((0.5, 0.4, 0.2, -0.1, 0.4)),
        r"20.0% \(95 % interval -10.0% to 40.0%\), which cannot be told from",
    ),
    "one person": (
        measured((0.5, 0.4, 0.2, NAN, NAN)),
        r"\(no interval, with so few people\), which cannot be told from none",
    ),
    "no reduction": (measured((0.1, 0.0, NAN, NAN, NAN)), "10.0% before and 0.0% after, which gives no reduction"),
}


@pytest.mark.parametrize("case", NOT_MEASURED)
def test_without_a_measured_effect_nothing_is_written(case: str, tokenizer: Any, tmp_path: Path) -> None:
    result, message = NOT_MEASURED[case]
    with pytest.raises(ValueError, match=f"no effect was measured: .*{message}.* or without_effect=True"):
        export_model(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer, mitigation=result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["nothing given", "by chance"])
def test_asked_for_all_the_same_the_card_says_so(case: str, tokenizer: Any, tmp_path: Path) -> None:
    result, message = NOT_MEASURED[case]
    exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer, mitigation=result)
    manifest = load_manifest(tmp_path / "out")
    assert manifest.effective is False and re.search(message, manifest.effect)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# LlamaForCausalLM with 3 privacy neurons ablated, without a measured effect\n" in card
    assert f"**No effect was measured: {manifest.effect}.** Do not take this for a model that leaks less." in card


def test_manifests_of_earlier_versions_are_read(tokenizer: Any, tmp_path: Path) -> None:
    made = exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    path = tmp_path / "out" / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["effective"], content["effect"], content["content_sha256"]
    path.write_text(json.dumps(content | {"content_sha256": sha256(content)}), encoding="utf-8")
    assert load_manifest(tmp_path / "out") == replace(made, effective=None, effect="")


def test_edited_manifest_is_noticed(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no xlmech_manifest.json"):
        load_manifest(tmp_path)
    exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    path = tmp_path / "out" / "xlmech_manifest.json"
    text = path.read_text(encoding="utf-8")
    edits: list[tuple[Any, str]] = [
        (lambda content: content["neurons"]["neurons"].pop(), "the list of neurons does not have the hash"),
        (lambda content: content.update(mode="scale"), "the content does not have the hash"),
        (lambda content: content["verification"].update(max_relative_error=0.0, by="hand"), "so it was edited"),
        (
            lambda content: content.update(schema_version=9),
            r"'schema_version': 9}; this xlmech reads {'kind': 'export', 'schema_version': 1}",
        ),
        (lambda content: content.pop("neurons"), "not a manifest of export_model"),
    ]
    for edit, message in edits:
        content = json.loads(text)
        edit(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_manifest(tmp_path / "out")
    for broken in ("{", "[]"):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match="not a manifest of export_model"):
            load_manifest(tmp_path / "out")


def _by_language() -> PrivacyNeurons:
    rows = [("universal", "", [(0, 1, 1.0)]), ("specific", "fr", [(1, 1, 1.0)])]
    return PrivacyNeurons(
        languages=("fr",), scores=torch.zeros(1, N_LAYERS, D_MLP), chosen=chosen_frame(rows), rule="min",
        provenance=Provenance(model="m"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("neurons", "how", "message"),
    [
        ({"fr": _neurons()}, {}, "sets by language cannot be exported, since weights do not know"),
        (_by_language(), {}, "PrivacyNeurons cannot be exported, .*; pass one NeuronSet, e.g. found.universal"),
        (_neurons() - _neurons(), {}, "the neuron set is empty"),
        (replace(_gates(), factors=torch.ones(N_LAYERS, D_MLP)), {}, "all gates are 1"),
        (_gates(), {"factor": 0.5}, "gates have factors of their own; leave factor= and values= out"),
        (_gates(), {"values": _values("llama")}, "gates have factors of their own"),
        (_gates("bloom"), {}, r"layer 0 has 0 linear modules from 128 neurons"),
        (_gates(model="other"), {}, r"gates of the model 'other'; this one is 'LlamaForCausalLM'.*for_model"),
        (_neurons(), {"factor": float("nan")}, "factor must be a finite number"),
        (
            _neurons(),
            {"values": torch.zeros(2, 2)},
            r"values must be of shape \(layer, neuron\) \(3, 64\), got \(2, 2\)",
        ),
        (_neurons(), {"factor": 0.5, "values": _values("llama")}, "give one of the two"),
        (NeuronSet(CHOSEN, 4, D_MLP), {}, r"neurons of a model with .* \(4, 64\); this one has \(3, 64\)"),
        (NeuronSet(CHOSEN, N_LAYERS, 65), {}, "layer 0 has 0 linear modules from 65 neurons"),
        (_neurons(model="other"), {}, r"neurons of the model 'other'; this one is 'LlamaForCausalLM'.*for_model"),
    ],
)
def test_refusals_leave_nothing(neurons: Any, how: Any, message: str, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        exported(tiny("llama"), neurons, tmp_path / "out", tokenizer=tokenizer, **how)
    assert list(tmp_path.iterdir()) == []


def test_refuses_an_existing_folder_and_a_hooked_model(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists; export to a new folder"):
        exported(tiny("llama"), _neurons(), tmp_path, tokenizer=tokenizer)
    hooked = load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")
    with pytest.raises(ValueError, match="a TransformerBridge has its weights wrapped"):
        exported(hooked, _neurons(), tmp_path / "out")


def test_an_export_that_is_not_the_hooked_run_is_not_kept(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every guard is reached: a wrong column is seen in the logits, a lost edit in the weights, a full disk before work."""
    right, save = export.edited_weights, export._save

    def shifted(model: Any, neurons: NeuronSet, *how: Any) -> Any:
        wrong = frozenset((layer, index + 1) for layer, index in neurons)
        return right(model, NeuronSet(wrong, neurons.n_layers, neurons.d_mlp), *how)

    with monkeypatch.context() as patch:
        patch.setattr(export, "edited_weights", shifted)
        with pytest.raises(RuntimeError, match="the exported model's logits differ by"):
            exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(export, "_save", lambda checkpoint, edits, folder: save(checkpoint, {}, folder))
        with pytest.raises(
            RuntimeError, match=r"differs from what was written at \['model.layers.0.mlp.down_proj.weight'"
        ):
            exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
        with pytest.raises(OSError, match="0.0 GB free"):
            exported(tiny("llama"), _neurons(), tmp_path / "out", tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_down_projections_are_found_by_shape() -> None:
    assert down_projections(tiny("gpt2"), D_MLP)[1][0] == "transformer.h.1.mlp.c_proj"
    assert down_projections(tiny("gpt_neox"), D_MLP)[2][0] == "gpt_neox.layers.2.mlp.dense_4h_to_h"
