"""The real model, read and patched by TransformerLens' own lens and patching. Slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.in_context import answer_tokens
from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

from xlmech.data.pairs import ProbePair
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import demo_records
from xlmech.engine.token_spans import aligned_positions, prompt_spans
from xlmech.lens.logit import logit_lens
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_prompt
from xlmech.patching.between_languages import patch_languages
from xlmech.patching.positions import patch_positions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    asked = build_probes(demo_records(), ["en", "fr", "zh"], attributes=["birth_country"], templates=[2])
    return asked.filter(group="private")


def _tokens(demo: Any, probe: Probe) -> torch.Tensor:
    return torch.tensor([encode_prompt(backend_of(demo), probe.prompt)])


def _first(demo: Any, probe: Probe, language: str) -> int:
    return answer_tokens(backend_of(demo).tokenizer, probe.prompt, probe.answers[language])[0]


def _few(probes: ProbeSet) -> list[Probe]:
    return [probes.filter(languages=[code])[number] for number, code in enumerate(("en", "fr", "zh"))]


def _ours(demo: Any, probe: Probe) -> pd.DataFrame:
    frame = logit_lens(demo, ProbeSet((probe,)), languages=["en", "fr", "zh"], progress=False).readings
    return frame.set_index(["form_language", "layer"]).sort_index()


def _close(ours: Any, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), theirs.double(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_lens_agrees_with_a_cache_read_by_the_models_own_norm_and_unembedding(demo: Any, probes: ProbeSet) -> None:
    for probe in _few(probes):
        _, cache = demo.run_with_cache(_tokens(demo, probe))
        stack = torch.stack([cache["resid_post", layer][:, -1] for layer in range(demo.cfg.n_layers)])
        log_probs = demo.unembed(demo.ln_final(stack))[:, 0].log_softmax(-1)
        ours = _ours(demo, probe)
        for language in ("en", "fr", "zh"):
            theirs = log_probs[:, _first(demo, probe, language)]
            _close(ours.prob[language].to_list(), theirs.exp())
            # Below e-80 a float32 probability is 0.
            _close(torch.tensor(ours.prob[language].to_list()).log().clamp_min(-80).tolist(), theirs.clamp_min(-80))
        _close(ours.entropy["en"].to_list(), torch.special.entr(log_probs.exp()).sum(-1))


def test_lens_agrees_with_transformer_lens_tool(demo: Any, probes: ProbeSet) -> None:
    tools = pytest.importorskip("transformer_lens.tools.analysis.logit_lens", reason="TransformerLens 3 has none")
    for probe in _few(probes):
        wanted = [_first(demo, probe, code) for code in ("en", "fr", "zh")]
        found = tools.logit_lens(demo, _tokens(demo, probe), targets=wanted, return_type="probs")
        ours = _ours(demo, probe)
        for number, language in enumerate(("en", "fr", "zh")):
            _close(ours.prob[language].to_list(), found.values[1:, 0, number])  # the first entry is the embedding
        _close(ours.entropy["en"].to_list(), found.readout.entropy[1:, 0])


@torch.no_grad()
def _theirs(
    demo: Any, pair: ProbePair, setter: Callable[..., Any], places: Sequence[tuple[int, int]]
) -> dict[str, torch.Tensor]:
    """Log-probability of each outcome's first token at (layer, position) places, by TransformerLens' patching."""
    _, cache = demo.run_with_cache(_tokens(demo, pair.sources[0]))
    outcomes, rows = {name: _firsts(demo, pair.target.prompt, forms) for name, forms in pair.outcomes().items()}, []

    def metric(logits: torch.Tensor) -> torch.Tensor:
        log_probs = logits[0, -1].log_softmax(-1)
        rows.append(torch.stack([log_probs[tokens].logsumexp(0) for tokens in outcomes.values()]))
        return rows[-1][0]

    index = pd.DataFrame(places, columns=["layer", "pos"])
    generic_activation_patch(demo, _tokens(demo, pair.target), cache, metric, setter, "resid_post", index_df=index)
    return dict(zip(outcomes, torch.stack(rows).unbind(1), strict=True))


def _firsts(demo: Any, prompt: str, forms: Sequence[str]) -> list[int]:
    return list(dict.fromkeys(answer_tokens(backend_of(demo).tokenizer, prompt, form)[0] for form in forms))


def _clear(demo: Any, pairs: Sequence[ProbePair]) -> list[ProbePair]:
    """Pairs of which no two outcomes share a first token."""
    found = []
    for pair in pairs:
        firsts = [token for forms in pair.outcomes().values() for token in _firsts(demo, pair.target.prompt, forms)]
        if len(firsts) == len(set(firsts)):
            found.append(pair)
    return found


def test_patching_by_layer_and_position_agrees_between_prompts_of_one_length(demo: Any, probes: ProbeSet) -> None:
    backend, english = backend_of(demo), list(probes.filter(languages=["en"]))
    pairs = [
        ProbePair(sources=(one,), target=two)
        for one in english
        for two in english
        if one.record.value != two.record.value and prompt_spans(backend, one) == prompt_spans(backend, two)
    ]
    pair = _clear(demo, pairs)[0]
    sweep = patch_positions(demo, pair, progress=False).outcomes.set_index(["outcome", "layer", "position"]).log_prob
    n = _tokens(demo, pair.target).shape[1]
    places = [(layer, place) for layer in range(0, demo.cfg.n_layers, 3) for place in range(1, n, 2)]
    for outcome, theirs in _theirs(demo, pair, layer_pos_patch_setter, places).items():
        _close([sweep[outcome, layer, place] for layer, place in places], theirs)


@pytest.mark.parametrize(("source", "target"), [("fr", "en"), ("en", "zh")])
def test_patching_the_last_token_agrees_between_languages(
    demo: Any, probes: ProbeSet, source: str, target: str
) -> None:
    pair = _clear(demo, probes.pairs(source=source, target=target))[0]
    result = patch_languages(demo, [pair], progress=False)
    ours = result.outcomes.set_index(["outcome", "layer"]).log_prob
    ((place, of_source),) = aligned_positions(backend_of(demo), pair.sources[0], pair.target, "last")

    def set_other_place(activation: torch.Tensor, index: Sequence[int], given: torch.Tensor) -> torch.Tensor:
        activation[:, index[1]] = given[:, of_source]
        return activation

    places = [(layer, place) for layer in range(demo.cfg.n_layers)]
    for outcome, theirs in _theirs(demo, pair, set_other_place, places).items():
        _close([ours[outcome, layer] for layer, _ in places], theirs)
