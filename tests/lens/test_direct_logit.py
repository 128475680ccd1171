"""The terms sum to the model's own logit; each is TransformerLens' own where it computes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.in_context import answer_tokens
from helpers.tiny_models import N_LAYERS, tiny

from xlmech.data.probes import ProbeSet
from xlmech.engine.norm import FrozenNorm
from xlmech.lens import direct_logit
from xlmech.lens.direct_logit import DirectLogitResult, direct_logit_attribution
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_logit, "plant_language", lambda model: "en")


@pytest.fixture(params=["own", "gpt2", "llama", "gemma2", "gemma3", "cohere2", "granite"])
def any_model(request: pytest.FixtureRequest, model: Any, tokenizer: Any) -> Any:
    """The installed TransformerLens' own kind, and every tiny architecture as a bridge; biases made large."""
    if request.param == "own":
        return model
    network = tiny(request.param).double()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 1:
                generator = torch.Generator().manual_seed(len(name))
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return load_model(network, tokenizer=tokenizer, dtype=torch.float64, backend="bridge")


def uncapped_logits(model: Any, prompt: str) -> torch.Tensor:
    """(d_vocab,) the model's own logits before any soft-cap."""
    tokens = torch.tensor([backend_of(model).tokenizer(prompt).input_ids])
    with torch.no_grad():
        logits = model(tokens, return_type="logits")[0, -1]
    cap = backend_of(model).softcap
    return torch.as_tensor(cap * torch.atanh(logits / cap) if cap else logits)


def test_terms_sum_to_the_models_own_logit(any_model: Any, probes: ProbeSet) -> None:
    few = probes.filter(attributes=["birth_country"])[:3]
    result = direct_logit_attribution(any_model, few, progress=False)
    summed = result.contributions.groupby(["probe", "form_language"])[["logit", "centred"]].sum()
    backend = backend_of(any_model)
    for probe in few:
        logits = uncapped_logits(any_model, probe.prompt)
        for code, form in probe.answers.items():
            wanted = logits[answer_tokens(backend.tokenizer, probe.prompt, form)[0]]
            found = summed.loc[(probe.id, code)]
            assert found.logit == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)
            assert found.centred == pytest.approx(float(wanted - logits.mean()), rel=1e-4, abs=1e-5)
    assert result.totals.error.abs().max() < 1e-5
    per_form = result.contributions.groupby(["probe", "form_language"]).component.value_counts().unstack()
    assert per_form.drop_duplicates().to_dict("records") == [
        {"attn_out": N_LAYERS, "bias": 1, "embed": 1, "mlp_out": N_LAYERS}
    ]
    biases = result.contributions[result.contributions.component == "bias"].logit
    norm = {name.rpartition(".")[2] for name, _ in any_model.ln_final.named_parameters()}
    assert (biases.abs().max() > 0) == bool(norm & {"b", "bias"}), "Cohere's LayerNorm has no bias"


def test_each_term_is_transformerlens_own(model: Any, probes: ProbeSet) -> None:
    """`apply_ln_to_stack` holds the scale alike, but takes the norm's gain to be folded into the unembedding."""
    probe = probes.filter(attributes=["birth_country"])[0]
    backend = backend_of(model)
    tokens = torch.tensor([backend.tokenizer(probe.prompt).input_ids])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        names = [f"blocks.{layer}.hook_{part}" for part in ("attn_out", "mlp_out") for layer in range(N_LAYERS)]
        stack = torch.stack([cache["blocks.0.hook_resid_pre"], *(cache[name] for name in names)])
        scaled = cache.apply_ln_to_stack(stack, layer=-1)[:, 0, -1] * FrozenNorm.of(backend).gain
        wanted = scaled @ backend.unembed[answer_tokens(backend.tokenizer, probe.prompt, probe.answers["en"])[0]]
    result = direct_logit_attribution(model, ProbeSet((probe,)), languages=["en"], progress=False)
    found = result.contributions[result.contributions.component != "bias"].logit
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-5, abs=1e-8)


def test_terms_are_linear_in_what_components_write(any_model: Any) -> None:
    """An independent way: the gradient of the logit through a norm whose scale is cut off."""
    backend = backend_of(any_model)
    norm = FrozenNorm.of(backend)
    resid = 3 * torch.randn(backend.d_model, dtype=torch.float64) + 1
    made = backend.final_norm(resid[None, None])[0, 0].detach()
    centred = resid - resid.mean() if norm.centres else resid
    assert (centred * norm.over_scale(backend, resid) + norm.offset).tolist() == pytest.approx(
        made.tolist(), rel=1e-4, abs=1e-5
    )
    assert norm.centres == any_model.cfg.normalization_type.startswith("LN")


def test_summary_tells_what_turns_plant_into_query(model: Any, probes: ProbeSet, planted: None) -> None:
    probe = probes.filter(attributes=["birth_country"], languages=["fr"])[0]
    asked = ProbeSet(
        tuple(
            replace(probe, record=probe.record.model_copy(update={"subject": name, "id": name}), answers=answers)
            for name, answers in (("A B", {"en": "Xa", "fr": "Ya"}), ("C D", {"en": "Qa", "fr": "Wa"}))
        )
    )
    result = direct_logit_attribution(model, asked, progress=False)
    summary = result.summary().set_index(["component", "layer", "form"])
    assert set(summary.index.get_level_values("form")) == {"query", "plant", "query - plant"}
    frame = result.contributions
    cell = frame[(frame.component == "mlp_out") & (frame.layer == 1)]
    mean = {form: cell[cell.form == form].centred.mean() for form in ("query", "plant")}
    assert summary.value["mlp_out", 1, "query"] == pytest.approx(mean["query"])
    assert summary.value["mlp_out", 1, "query - plant"] == pytest.approx(mean["query"] - mean["plant"])
    known = summary.dropna()  # a term that is the same for both people has no interval
    assert len(known) > len(summary) / 2
    assert (known.low <= known.value).all() and (known.value <= known.high).all()
    alone = direct_logit_attribution(model, asked[:1], progress=False).summary()
    assert alone[["low", "high"]].isna().all(axis=None)


def test_summary_without_a_plant_language(model: Any, probes: ProbeSet) -> None:
    result = direct_logit_attribution(model, probes.filter(attributes=["birth_country"])[:2], progress=False)
    assert set(result.summary().form) == {"query"}


def test_saved_and_loaded_is_the_same(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    result = direct_logit_attribution(model, probes.filter(attributes=["birth_country"])[:2], progress=False)
    again = DirectLogitResult.load(result.save(tmp_path / "direct"))
    pd.testing.assert_frame_equal(again.to_frame(), result.contributions)
    pd.testing.assert_frame_equal(again.totals, result.totals)
    assert again.n_layers == N_LAYERS
    assert not result.contributions.isin([probe.record.subject for probe in probes]).any(axis=None)


def test_a_norm_that_is_no_norm_is_refused(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backend_of(model)), "final_norm", lambda self, resid: torch.tanh(resid))
    with pytest.raises(ValueError, match="is neither a LayerNorm nor an RMSNorm.*not defined for this model"):
        direct_logit_attribution(model, probes.filter(attributes=["birth_country"])[:1], progress=False)


def test_a_stream_with_more_in_it_is_warned_of(model: Any, probes: ProbeSet) -> None:
    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return value + 5

    few = probes.filter(attributes=["birth_country"])[:1]
    with (
        backend_of(model).hooks([("blocks.1.hook_resid_post", add)]),
        pytest.warns(UserWarning, match="differ from the last residual stream by .*see `error` in totals"),
    ):
        result = direct_logit_attribution(model, few, progress=False)
    assert result.totals.error.abs().max() > 1e-3


def test_collisions_and_no_probes(model: Any, probes: ProbeSet, planted: None) -> None:
    countries = probes.filter(attributes=["birth_country"])
    assert direct_logit_attribution(model, countries, progress=False).n_collisions == 5
    with pytest.raises(ValueError, match="no probes to read"):
        direct_logit_attribution(model, ProbeSet(()))
    with pytest.raises(ValueError, match="share their first token"):
        direct_logit_attribution(model, countries.filter(languages=["fr"]))
