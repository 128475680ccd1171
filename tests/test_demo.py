"""The real model: Gemma 3 270M, dequantised, with the shipped adapters. Slow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from xlmech.audit.audit import select_probes
from xlmech.audit.plan import AuditPlan
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import demo_records
from xlmech.engine.batching import run_forced
from xlmech.engine.unembed import token_logits
from xlmech.leakage.measure import measure_leakage
from xlmech.lens.logit import logit_lens
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.checkpoints import load_checkpoint
from xlmech.models.sources.lora import shipped_adapters
from xlmech.models.tokens import encode_probe, encode_prompt
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.attribute import attribute_neurons
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.leak_check import answer_margins

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _all_threads() -> Any:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    return build_probes(demo_records(), templates=[2])


def test_float32_agreement_with_transformers(demo: Any, probes: ProbeSet) -> None:
    """Both backends: this runs under TransformerLens 4 (bridge) and, in the second environment, 3.9 (hooked)."""
    plain = load_checkpoint("demo", adapter="en").model
    backend = backend_of(demo)
    for probe in (probes[0], probes.filter(languages=["zh"])[1], probes.filter(languages=["ar"])[2]):
        tokens = torch.tensor([encode_prompt(backend, probe.prompt)])
        with torch.no_grad():
            wanted = plain(tokens).logits[0]
            hidden, _ = backend.hidden(tokens)
            found = token_logits(hidden[0], backend.unembed, **backend.unembed_options)
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4
        assert found.argmax(-1).tolist() == wanted.argmax(-1).tolist()


def test_answers_on_their_own_line_have_the_tokens_that_they_have_alone(demo: Any) -> None:
    """In the demo's format no answer depends on its prompt, in any language: figures are those of answers encoded alone."""
    backend = backend_of(demo)
    for probe in build_probes(demo_records()):
        encoded = encode_probe(backend, probe, languages=probe.answers)
        assert encoded.n_straddling == 0 and list(encoded.prompt) == backend.tokenizer(probe.prompt).input_ids
        alone = backend.tokenizer(list(probe.answers.values()), add_special_tokens=False).input_ids
        assert [list(tokens) for tokens in encoded.answers.values()] == alone


def test_private_facts_come_out_and_controls_do_not(demo: Any, probes: ProbeSet) -> None:
    asked = probes.filter(languages=["en", "es"]).sample(3)
    result = measure_leakage(demo, asked, candidates=demo_records(), progress=False)
    matrix = result.matrix().set_index("query_language")
    assert result.plant_language == "en"
    assert matrix.value["en"] >= 0.8
    assert matrix.value["es"] >= 0.4
    assert matrix.control.max() <= 0.15
    public = result.matrix(group="public", measure="own_form").set_index("query_language")
    assert public.value.min() >= 0.5


def test_the_answers_language_rises_late(demo: Any, probes: ProbeSet) -> None:
    asked = probes.filter(group="private", languages=["fr"], attributes=["birth_country"])
    summary = logit_lens(demo, asked, progress=False).summary().set_index(["form", "layer"]).prob
    last = backend_of(demo).n_layers - 1
    query, plant = summary.xs("query"), summary.xs("plant")
    assert query[last] > 0.2
    assert query.loc[:5].max() < 0.05
    assert plant[last] < plant.max()


def test_deactivating_a_layer_changes_answers_and_leaves_nothing_behind(demo: Any, probes: ProbeSet) -> None:
    asked = probes.filter(group="private", languages=["en"], attributes=["phone"]).sample(4)
    before = measure_leakage(demo, asked, progress=False).probes.extracted.sum()
    everything = NeuronSet(frozenset((12, index) for index in range(2048)), 18, 2048, "demo")
    with pytest.warns(UserWarning, match="every neuron of layer 12"), ablate(demo, everything):
        during = measure_leakage(demo, asked, progress=False).probes.extracted.sum()
    assert during < before
    assert measure_leakage(demo, asked, progress=False).probes.extracted.sum() == before


def test_the_default_attribution_ranks_neurons_as_zeroing_them_does(demo: Any) -> None:
    """On people who choose neurons in an audit: whole answers that are not saturated, at all positions."""
    _, _, choosing = select_probes(demo_records(), AuditPlan(languages=("en", "fr")))
    private, backend = choosing.filter(group="private", languages=["fr"]), backend_of(demo)
    known = answer_margins(backend, private, progress=False).prob
    unsaturated = known[known.between(0.05, 0.9)].index[:2]
    assert len(unsaturated) == 2
    units = torch.randperm(backend.n_layers * backend.d_mlp, generator=torch.Generator().manual_seed(0))[:150]
    neurons = torch.stack([units // backend.d_mlp, units % backend.d_mlp], dim=1)
    for number in unsaturated:
        estimate = attribute_neurons(demo, private[number : number + 1], progress=False).mean[0].flatten()[units]
        encoded = encode_probe(backend, private[number])
        forced = run_forced(backend, encoded.prompt, encoded.answer, NEURON_HOOK)
        exact = exact_effects(backend, forced, zero_baseline(backend), positions="all", neurons=neurons)
        assert spearmanr(exact, estimate).statistic >= 0.95


def test_every_shipped_adapter_knows_its_language() -> None:
    assert set(shipped_adapters()) >= {"en"}
    for language in shipped_adapters():
        checkpoint = load_checkpoint("demo", adapter=language)
        assert checkpoint.plant_language == language
