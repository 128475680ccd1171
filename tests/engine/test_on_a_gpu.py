"""Every analysis runs on the tensors of a GPU, gives what it gives on a CPU, and reads from it once per batch, not per number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import fake_gpu
from helpers.people import person
from helpers.tiny_models import tiny

import xlmech.engine.batching
import xlmech.models.load
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.engine.batching import run_forced
from xlmech.engine.generate import generate
from xlmech.engine.record import activation_moments
from xlmech.engine.sampling import Sampling
from xlmech.engine.score import sequence_nll
from xlmech.leakage.measure import measure_leakage
from xlmech.lens.direct_logit import direct_logit_attribution
from xlmech.lens.logit import logit_lens
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import load_model, model_name
from xlmech.models.tokens import encode_probe
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.attribute import attribute_neurons
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects, integrated_gradients
from xlmech.neurons.attribution.gradient import gradient_x_activation
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.between_languages import patch_languages
from xlmech.patching.estimates import attribution_patching

pytestmark = pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
ARCHITECTURES = ("gemma3", "gpt2")
PROBES = build_probes([person(number) for number in range(2)], ["en", "fr"], templates=[0])


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (xlmech.engine.batching, xlmech.models.load):
        monkeypatch.setattr(module, "free_memory", lambda _: 10**9)


def models(architecture: str, tokenizer: Any) -> tuple[Any, Any]:
    """The same model on the CPU and on the GPU."""
    options: dict[str, Any] = {"tokenizer": tokenizer, "dtype": "float32", "backend": "bridge"}
    plain = load_model(tiny(architecture), device="cpu", **options)
    with fake_gpu.FakeGPU():
        return plain, load_model(fake_gpu.on_gpu(tiny(architecture)), device="cuda:0", **options)


def pairs_of(backend: Backend, probes: ProbeSet) -> list[tuple[list[int], list[int]]]:
    encoded = [encode_probe(backend, probe) for probe in probes]
    return [(list(item.prompt), list(item.answer)) for item in encoded]


def _ablated(model: Any, probes: ProbeSet) -> Any:
    backend = backend_of(model)
    moments = activation_moments(model, [probe.prompt for probe in probes])
    chosen = NeuronSet(frozenset({(0, 1), (1, 3), (2, 5)}), backend.n_layers, backend.d_mlp, model_name(model))
    with ablate(model, chosen, mode="noise", values=moments.mean, std=moments.std, positions=slice(1, None)):
        return measure_leakage(model, probes, measures=("exposure",), progress=False).probes


def _effects(model: Any, probes: ProbeSet, **options: Any) -> torch.Tensor:
    backend = backend_of(model)
    forced = run_forced(backend, *pairs_of(backend, probes)[0], NEURON_HOOK)
    neurons = torch.tensor([[layer, neuron] for layer in range(3) for neuron in range(20)])
    return exact_effects(backend, forced, zero_baseline(backend), neurons=neurons, **options)


def _path(model: Any, probes: ProbeSet, **options: Any) -> torch.Tensor:
    backend = backend_of(model)
    forced = run_forced(backend, *pairs_of(backend, probes)[0], NEURON_HOOK)
    return integrated_gradients(backend, forced, forced.activations.mean(1), nodes=2, **options)[0]


def _gradient(model: Any, probes: ProbeSet, **options: Any) -> torch.Tensor:
    backend = backend_of(model)
    return gradient_x_activation(backend, pairs_of(backend, probes)[:1] * 3, zero_baseline(backend), **options)


def _pairs(probes: ProbeSet) -> Any:
    return probes.pairs(source="en", target="fr")[:1]


ANALYSES: dict[str, Callable[[Any, ProbeSet], Any]] = {
    "extraction": lambda m, p: measure_leakage(m, p, progress=False).probes,
    "exposure": lambda m, p: measure_leakage(m, p, measures=("exposure",), progress=False).probes,
    "sampling": lambda m, p: measure_leakage(m, p, sampling=Sampling(n_samples=2), progress=False).probes,
    "lens": lambda m, p: logit_lens(m, p, whole_values=True, progress=False).values,
    "direct logit attribution": lambda m, p: direct_logit_attribution(m, p, progress=False).contributions,
    "attribution": lambda m, p: attribute_neurons(m, p, progress=False).mean,
    "gradient, last position": lambda m, p: _gradient(m, p, positions="last"),
    "path, last position": lambda m, p: _path(m, p, positions="last"),
    "ablation, last position": lambda m, p: _effects(m, p, positions="last"),
    "ablation, logit": lambda m, p: _effects(m, p, positions="all", metric="logit"),
    "ablation by noise": _ablated,
    "patching, heads": lambda m, p: (
        patch_languages(m, _pairs(p), component="heads", position="subject", layers="onward", progress=False).outcomes
    ),
    "attribution patching": lambda m, p: attribution_patching(m, _pairs(p), progress=False).changes,
    "text": lambda m, p: sequence_nll(backend_of(m), [prompt for prompt, _ in pairs_of(backend_of(m), p)])[0],
}


def numbers(found: Any) -> torch.Tensor:
    """A result's numbers, float64; NaN as 0."""
    if isinstance(found, pd.DataFrame):
        found = torch.tensor(found.select_dtypes("number").to_numpy(float))
    return torch.as_tensor(found).detach().double().nan_to_num()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_gives_what_the_cpu_gives(architecture: str, tokenizer: Any) -> None:
    plain, on_gpu = models(architecture, tokenizer)
    for name, analysis in ANALYSES.items():
        wanted = numbers(analysis(plain, PROBES))
        with fake_gpu.FakeGPU():
            found = numbers(analysis(on_gpu, PROBES)).cpu()
        assert wanted.numel() and torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), name


def test_a_batch_is_read_once_and_not_per_row_or_layer(tokenizer: Any) -> None:
    _, model = models("llama", tokenizer)
    backend = backend_of(model)
    (prompt, answer), *_ = pairs_of(backend, PROBES)

    def reads(work: Callable[[], Any]) -> int:
        with fake_gpu.FakeGPU() as gpu:
            work()
            return sum(gpu.reads.values())

    assert reads(lambda: generate(backend, [prompt] * 8, max_new_tokens=5)) == 5 + 1  # a step each, and the bias
    few, many = (
        reads(
            lambda n=n: gradient_x_activation(backend, [(prompt, answer)] * n, zero_baseline(backend), positions="all")
        )
        for n in (1, 16)
    )
    assert few == many <= 4


def test_mixing_devices_fails_as_on_a_gpu() -> None:
    with fake_gpu.FakeGPU() as gpu:
        here, there = torch.ones(3), torch.ones(3, device="cuda:0")
        for mix in (
            lambda: there + here,
            lambda: here[there.long()],
            lambda: there.index_put((torch.arange(3),), here),
        ):
            with pytest.raises(RuntimeError, match="on the CPU"):
                mix()
        with pytest.raises(TypeError, match=r"use Tensor\.cpu\(\) first"):
            there.numpy()
        assert (there[torch.arange(2)] + torch.tensor(2.0)).tolist() == [3, 3] and sum(gpu.reads.values()) == 1
        leaf = torch.ones(3).requires_grad_()
        (slope,) = torch.autograd.grad((leaf.to("cuda:0") * there).sum(), leaf)
        assert slope.tolist() == [1, 1, 1]


def test_memory_that_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name, value in (("mem_get_info", (5, 80)), ("memory_reserved", 40), ("memory_allocated", 10)):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert xlmech.models.load.free_memory(torch.device("cuda")) == 35
