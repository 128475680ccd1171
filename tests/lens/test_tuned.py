"""Translators: the identity is the raw lens, training brings the reading nearer to the output, other models are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import unchecked
from helpers.tiny_models import N_LAYERS, tiny

from xlmech.data.probes import ProbeSet
from xlmech.lens import tuned as tuned_lens
from xlmech.lens.logit import logit_lens
from xlmech.lens.tuned import TunedLens, train_tuned_lens
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model


@pytest.fixture(scope="module")
def tuned(model: Any) -> TunedLens:
    return train_tuned_lens(model, languages=["en", "fr", "zh"], steps=40, progress=False)


def readings(model: Any, probes: ProbeSet, lens: TunedLens | None) -> pd.DataFrame:
    few = probes.filter(attributes=["birth_country"])[:3]
    return logit_lens(model, few, lens=lens, progress=False).readings


def test_identity_translators_are_the_raw_lens(model: Any, tuned: TunedLens, probes: ProbeSet) -> None:
    identity = replace(tuned, weight=torch.zeros_like(tuned.weight), bias=torch.zeros_like(tuned.bias))
    pd.testing.assert_frame_equal(readings(model, probes, identity), readings(model, probes, None), rtol=1e-12)


def test_a_translator_is_applied_before_the_norm(model: Any, tuned: TunedLens, probes: ProbeSet) -> None:
    backend = backend_of(model)
    resid = torch.randn(2, backend.d_model, dtype=tuned.weight.dtype)
    wanted = resid @ (torch.eye(backend.d_model) + tuned.weight[1]) + tuned.bias[1]
    torch.testing.assert_close(tuned.translate(resid, 1), wanted)
    assert tuned.translate(resid, N_LAYERS - 1) is resid
    raw, found = readings(model, probes, None), readings(model, probes, tuned)
    last = raw.layer == raw.layer.max()
    pd.testing.assert_frame_equal(raw[last], found[last])
    assert (raw[~last].prob - found[~last].prob).abs().max() > 1e-3


def test_training_brings_held_out_text_nearer_to_the_output(tuned: TunedLens) -> None:
    frame = tuned.to_frame()
    assert frame.layer.tolist() == list(range(N_LAYERS))
    inner = frame[:-1]
    assert (inner.kl_tuned < 0.8 * inner.kl_raw).all()
    assert frame.kl_raw.iloc[-1] == pytest.approx(0, abs=1e-9)
    assert frame.kl_tuned.iloc[-1] == pytest.approx(0, abs=1e-9)
    assert tuned.languages == ("en", "fr", "zh")


def test_the_descent_goes_on_from_the_regression(model: Any, tuned: TunedLens) -> None:
    start = train_tuned_lens(model, languages=["en", "fr", "zh"], steps=0, progress=False)
    assert tuned.held_out.kl_tuned[:-1].sum() < start.held_out.kl_tuned[:-1].sum()
    # Without data to speak of, the penalty leaves the raw lens but for a constant.
    stiff = train_tuned_lens(model, languages=["en"], steps=0, ridge=1e9, progress=False)
    assert stiff.weight.abs().max() < 1e-6


def test_regression_is_the_closed_form(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    true = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    weight, bias = tuned_lens._regress(x, x @ true + 3, ridge=1e-9)
    torch.testing.assert_close(weight, true - torch.eye(6, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias, torch.full((6,), 3.0, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_divergence_is_that_of_torch_distributions(model: Any, tuned: TunedLens) -> None:
    backend = backend_of(model)
    states = torch.randn(N_LAYERS, 5, backend.d_model, dtype=torch.float64)
    found = tuned_lens.divergence(backend, tuned, states)

    def reading(resid: torch.Tensor) -> Any:
        logits = model.ln_final(resid[None])[0] @ backend.unembed.T
        cap = backend.softcap
        return torch.distributions.Categorical(logits=cap * torch.tanh(logits / cap) if cap else logits)

    for layer in range(N_LAYERS):
        wanted = torch.distributions.kl_divergence(reading(states[-1]), reading(states[layer])).mean()
        assert found.kl_raw[layer] == pytest.approx(float(wanted), rel=1e-6, abs=1e-9)


def test_a_sampled_vocabulary_estimates_the_whole(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(model)
    generator = torch.Generator().manual_seed(0)
    resid, likely = torch.randn(4, backend.d_model, dtype=torch.float64), torch.arange(50)
    whole, nothing = tuned_lens._sample_tokens(backend, likely, generator)
    assert len(whole) == len(backend.unembed)
    assert not nothing.any()
    wanted = tuned_lens._log_probs(backend, resid, whole, nothing)[:, :50]
    monkeypatch.setattr(tuned_lens, "_SAMPLED", 100)
    draws = [
        tuned_lens._log_probs(backend, resid, *tuned_lens._sample_tokens(backend, likely, generator))[:, :50]
        for _ in range(200)
    ]
    torch.testing.assert_close(torch.stack(draws).mean(0), wanted, rtol=0, atol=0.05)


def test_saved_and_loaded_is_the_same(model: Any, tuned: TunedLens, tmp_path: Path, probes: ProbeSet) -> None:
    folder = tuned.save(tmp_path / "tuned")
    assert (folder / "tensors.safetensors").is_file()
    again = TunedLens.load(folder)
    assert torch.equal(again.weight, tuned.weight)
    assert torch.equal(again.bias, tuned.bias)
    pd.testing.assert_frame_equal(again.held_out, tuned.held_out)
    result = logit_lens(model, probes.filter(attributes=["birth_country"])[:2], lens=again, progress=False)
    assert result.lens == "tuned"
    assert result.summary().prob.notna().all()


def test_another_models_lens_is_refused_by_name_and_shape(
    model: Any, tuned: TunedLens, tokenizer: Any, probes: ProbeSet
) -> None:
    other = load_model(tiny("gpt2"), tokenizer=tokenizer, backend="bridge")
    own = tuned.provenance.model
    with pytest.raises(
        ValueError, match=f"trained on '{own}', the model is .*; train one for it with train_tuned_lens"
    ):
        logit_lens(other, probes, lens=tuned)
    small = replace(tuned, weight=tuned.weight[:1, :4, :4], bias=tuned.bias[:1, :4])
    with pytest.raises(ValueError, match="reads 2 layers of width 4, the model has 3 of width 32; train one"):
        logit_lens(model, probes, lens=small)
    with unchecked(), pytest.raises(ValueError, match="weight .* does not fit bias"):
        replace(tuned, weight=tuned.weight[:1])
    with pytest.raises(ValueError, match="a tuned lens reads resid_post, not 'mlp_out'; leave lens out"):
        logit_lens(model, probes, lens=tuned, component="mlp_out")


def test_too_little_text_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match="1 texts cannot be split at held_out=0.2.*give more text"):
        train_tuned_lens(model, texts=["One sentence."])
    with pytest.raises(ValueError, match="give languages .* or texts, not both"):
        train_tuned_lens(model, texts=["a", "b"], languages=["en"])
    lens = train_tuned_lens(model, texts=["The sea is calm today.", "It rains."], held_out=0.5, steps=1, progress=False)
    assert lens.languages == ()
    assert lens.held_out.n_positions.unique() == [len("It rains.")]


def test_sentences_of_the_same_number_are_held_out_in_every_language() -> None:
    train, held = tuned_lens._split(["en", "fr"], None, 0.2)
    assert (len(train), len(held)) == (32, 8)
    assert train[0].startswith("The library")
    assert not set(train) & set(held)
