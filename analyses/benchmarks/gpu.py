"""Does the engine compute on a GPU what it computes on a CPU, and how fast is it there?

Writes `figures/benchmarks/gpu.json`.

    python analyses/benchmarks/gpu.py                        # at most six minutes on an H100
    python analyses/benchmarks/gpu.py --device cpu --tiny    # the same parts with tiny models, in seconds

The models have random weights, made on the device, in the shapes of Llama 3 8B, Qwen2.5 1.5B and Gemma 3 1B; the tokenizer is
trained on the spot on the demo's questions, with token ids spread over the model's whole vocabulary. Nothing is downloaded.

Parts, the most important first: `agreement` with the CPU in float32, on a few layers of the full width; `device_map` over the
devices there are; the device's measured `peak`; then for each dtype and model `attribution`, `ablation`, `host reads` (the places
where the engine waits for the device), `patching` and `leakage`. Each part may fail alone, has a time limit, and is written to
the file as soon as it is done. Seconds are medians after one run that is not counted; leakage is run once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import math
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xlmech import (
    AttributeOptions,
    attribute_neurons,
    build_probes,
    demo_records,
    load_model,
    logit_lens,
    measure_leakage,
    patch_languages,
)
from xlmech.audit import cost_model
from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.engine.generate import generate
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.shape import Shape, shape_of
from xlmech.models.tokens import encode_probe, encode_prompt
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects, integrated_gradients
from xlmech.neurons.attribution.gradient import gradient_x_activation

OUT = Path(__file__).parents[2] / "figures" / "benchmarks" / "gpu.json"
FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
GOAL = {"agreement": 1e-4, "seconds_per_answer_token": 1.0}
MODELS: dict[str, dict[str, Any]] = {
    "Llama 3 8B": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
    },
    "Qwen2.5 1.5B": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "Gemma 3 1B": {
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
        "query_pre_attn_scalar": 256,
    },
}  # fmt: skip
TINY = {
    "vocab_size": 1000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
SCALE = 2.0
"""Factor of the random weights of layers where numbers are compared: with the usual ones a single neuron's effect is as small as
the rounding of a log-probability."""

Work = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """How much of each work is done."""

    tiny: bool
    n_merged: int = 600
    n_layers_compared: int = 2
    n_batch: int = 64
    n_attributed: int = 64
    n_probes: int = 480
    n_pairs: int = 40
    n_neurons: int = 2000
    n_product: int = 8192
    repeats: int = 3


SMALL = Sizes(
    tiny=True, n_merged=300, n_layers_compared=2, n_batch=4, n_attributed=6, n_probes=12, n_pairs=3, n_neurons=40, n_product=128,
    repeats=1,
)  # fmt: skip


@dataclass
class Bench:
    """What is measured where, and what was found so far.

    Attributes:
        device: Where the models are.
        sizes: How much is done.
        out: The file that every part is written to.
        stop_at: Time (`time.monotonic`) after which no further part begins.
        found: The file's content.
    """

    device: torch.device
    sizes: Sizes
    out: Path
    stop_at: float
    found: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str, work: Work, /, *, limit: int = 100, **keys: Any) -> None:
        """Run one part and write what it found, or how it failed, to the file."""
        left = self.stop_at - time.monotonic()
        row: dict[str, Any] = {"part": name} | keys
        started = time.monotonic()
        try:
            if left < 5:
                raise TimeoutError("no time was left")
            with time_limit(min(limit, int(left))):
                row |= work()
        except Exception as error:  # the other parts go on
            row |= {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": traceback.format_exc()[-3000:]}
        row["part_seconds"] = round(time.monotonic() - started, 2)
        self.found["parts"].append(row)
        self.save()
        shown = {key: value for key, value in row.items() if key != "traceback" and not isinstance(value, dict | list)}
        print(json.dumps(shown), flush=True)

    def save(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], Any], *, repeats: int | None = None, warm: bool = True) -> dict[str, Any]:
        """Median, least and most seconds, and the most memory that was in use, in GB; after one run not counted, if `warm`."""
        if warm:
            work()
        self.synchronize()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        times = []
        for _ in range(repeats or self.sizes.repeats):
            started = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - started)
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "seconds": statistics.median(times), "seconds_least": min(times), "seconds_most": max(times),
            "peak_gb": round(peak / 1e9, 3),
        }  # fmt: skip

    def share(self, operations: float, seconds: float, dtype: torch.dtype) -> dict[str, Any]:
        """Operations per second, and their share of the measured peak in that dtype; None where it was not measured."""
        peak = self.found.get("peak_tflops", {}).get(dtype_name(dtype))
        tflops = operations / seconds / 1e12
        return {"tflops": round(tflops, 4), "share_of_peak": None if peak is None else round(tflops / peak, 4)}


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block once it has run for so long."""

    def raise_timeout(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    earlier = signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Models and questions


def questions(sizes: Sizes, languages: list[str] | None = None) -> ProbeSet:
    """The demo's people, asked for their occupation; in ten languages by default."""
    asked = build_probes(demo_records(), languages, attributes=["occupation"], templates=[1, 2])
    return ProbeSet(tuple(asked)[:: max(1, len(asked) // sizes.n_probes)][: sizes.n_probes])


def tokenizer_of(d_vocab: int, sizes: Sizes, folder: Path) -> Any:
    """A tokenizer trained on the demo's questions, whose token ids are spread over the vocabulary; other ids never occur."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    texts = [text for probe in questions(sizes) for text in (probe.prompt, *probe.answers.values())]
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=sizes.n_merged, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    state = json.loads(trained.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    stride = (d_vocab - 3) // len(tokens)
    vocab = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {token: 3 + stride * n for n, token in enumerate(tokens)}
    taken = set(vocab.values())
    vocab |= {f"<unused{n}>": n for n in range(d_vocab) if n not in taken}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in state["merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def config_of(name: str, sizes: Sizes, n_layers: int | None = None) -> Any:
    from transformers import AutoConfig

    values = MODELS[name] | (TINY if sizes.tiny else {}) | ({"num_hidden_layers": n_layers} if n_layers else {})
    values |= {"max_position_embeddings": 4096, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    return AutoConfig.for_model(values.pop("model_type"), **values)


def network_of(config: Any, dtype: torch.dtype, device: torch.device, scale: float = 1.0) -> Any:
    """A transformers model of random weights, made on the device; the matrices of its layers are multiplied by `scale`."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    network = network.to(device=device, dtype=dtype).eval()
    if scale != 1:
        with torch.no_grad():
            for layer in network.model.layers.parameters():
                if layer.ndim == 2:
                    layer.mul_(scale)
    return network


def hooked(network: Any, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return load_model(network, tokenizer=tokenizer, device=str(device), dtype=dtype, backend="bridge")


def encoded(backend: Backend, probes: ProbeSet) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer tokens."""
    items = [encode_probe(backend, probe) for probe in probes]
    return [(list(item.prompt), list(item.answer)) for item in items]


def one_length(backend: Backend, probes: ProbeSet, n: int) -> list[tuple[list[int], list[int]]]:
    """The `n` pairs of prompt and answer of the commonest length, repeated where there are fewer."""
    pairs = encoded(backend, probes)
    lengths = Counter(len(prompt) + len(answer) for prompt, answer in pairs)
    alike = [pair for pair in pairs if len(pair[0]) + len(pair[1]) == lengths.most_common(1)[0][0]]
    return (alike * math.ceil(n / len(alike)))[:n]


def some_neurons(backend: Backend, n: int) -> torch.Tensor:
    """(n, 2) layer and number of neurons drawn from the whole model."""
    units = torch.randperm(backend.n_layers * backend.d_mlp, generator=torch.Generator().manual_seed(0))[:n]
    return torch.stack([units // backend.d_mlp, units % backend.d_mlp], dim=1)


# Agreement with the CPU


def active_neurons(model: Any, probes: ProbeSet, n: int) -> torch.Tensor:
    """(n, 2) the most active neurons at the end of a question: the effects of others are near a log-probability's rounding."""
    backend = backend_of(model)
    prompt, answer = one_length(backend, ProbeSet(tuple(probes)[:4]), 1)[0]
    activations = run_forced(backend, prompt, answer, NEURON_HOOK).activations[:, len(prompt) - 1]
    units = activations.abs().flatten().topk(n).indices.sort().values
    return torch.stack([units // backend.d_mlp, units % backend.d_mlp], dim=1).cpu()


def numbers(model: Any, probes: ProbeSet, neurons: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each analysis says about a few questions, in float64 on the CPU; exact ablation of `neurons`."""
    backend, few = backend_of(model), ProbeSet(tuple(probes)[:2])
    pairs = one_length(backend, probes, 4)
    forced = run_forced(backend, *pairs[0], NEURON_HOOK)
    base = forced.activations.float().mean(1)
    lens = logit_lens(model, few, progress=False).readings
    exposed = measure_leakage(model, few[:1], measures=("exposure",), progress=False).probes
    found = {
        "gradient x activation": gradient_x_activation(backend, pairs, zero_baseline(backend), positions="all"),
        "integrated gradients": integrated_gradients(backend, forced, base, nodes=2, positions="last")[0],
        "exact ablation": exact_effects(backend, forced, zero_baseline(backend), positions="last", neurons=neurons),
        "lens, probability": torch.tensor(lens.prob.to_numpy()),
        "lens, entropy": torch.tensor(lens.entropy.to_numpy()),
        "exposure, log-probability": torch.tensor(exposed.log_prob.to_numpy()),
        "generation": torch.tensor(generate(backend, [prompt for prompt, _ in pairs], max_new_tokens=8)),
    }
    return {name: value.double().cpu() for name, value in found.items()}


def agreement(bench: Bench, name: str, tokenizer: Any) -> dict[str, Any]:
    """Largest difference between device and CPU relative to the largest value; of generation the share of other tokens."""
    probes = questions(bench.sizes)
    network = network_of(
        config_of(name, bench.sizes, bench.sizes.n_layers_compared), torch.float32, bench.device, SCALE
    )
    cpu = torch.device("cpu")
    plain = copy.deepcopy(network).to(cpu)
    plain = hooked(plain, tokenizer, cpu, torch.float32)
    neurons = active_neurons(plain, probes, min(bench.sizes.n_neurons, 100))
    wanted = numbers(plain, probes, neurons)
    found = numbers(hooked(network, tokenizer, bench.device, torch.float32), probes, neurons)
    differences = {
        what: float((found[what] != wanted[what]).double().mean())
        if what == "generation"
        else float((found[what] - wanted[what]).abs().max() / wanted[what].abs().max())
        for what in wanted
    }
    largest = max(differences.values())
    return {
        "largest": largest,
        "goal": GOAL["agreement"],
        "reached": largest <= GOAL["agreement"],
        "differences": differences,
    }


# The device's own speed


def matmul_peak(bench: Bench) -> dict[str, Any]:
    """Tera-operations per second of a large square product of random numbers, and bytes per second of a copy."""
    n, found = bench.sizes.n_product, dict[str, float]()
    for dtype, times in ((torch.bfloat16, 20), (torch.float32, 4)):
        one, other = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))

        def products(one: torch.Tensor = one, other: torch.Tensor = other, times: int = times) -> None:
            for _ in range(times):
                one @ other

        seconds = bench.timed(products, repeats=3)["seconds_least"] / times
        found[dtype_name(dtype)] = 2 * n**3 / seconds / 1e12
    source = torch.randn(16 * n * n, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.timed(lambda: target.copy_(source), repeats=5)["seconds_least"]
    bench.found["peak_tflops"] = found
    moved = 2 * source.numel() * source.element_size()
    return {"size": n, "tflops": found, "copy_gb_per_second": moved / seconds / 1e9}


# The engine's speed


def attribution_operations(shape: Shape, prompt: int, answer: int) -> float:
    """The cost model's, without the baseline's forward pass, which zero does not need."""
    forward = cost_model.operations(shape, "lens", prompt=prompt) - 2 * shape.unembedding * shape.n_layers
    return cost_model.operations(shape, "locate", prompt=prompt, answer=answer) - forward


def attribution(bench: Bench, model: Any, shape: Shape) -> dict[str, Work]:
    """Seconds per answer token for all neurons: the whole function, one batch of its kernel, and integrated gradients."""
    backend, dtype = backend_of(model), backend_of(model).unembed.dtype
    asked, base = questions(bench.sizes, ["fr"]), zero_baseline(backend)
    few = ProbeSet(tuple(asked)[: bench.sizes.n_attributed])

    def row(timed: dict[str, Any], pairs: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
        operations = sum(attribution_operations(shape, len(prompt), len(answer)) for prompt, answer in pairs)
        n_tokens = sum(len(answer) for _, answer in pairs)
        return timed | {
            "n_neurons": backend.n_layers * backend.d_mlp, "n_probes": len(pairs), "n_answer_tokens": n_tokens,
            "tokens_per_probe": sum(len(prompt) + len(answer) for prompt, answer in pairs) / len(pairs),
            "seconds_per_answer_token": timed["seconds"] / n_tokens, "goal": GOAL["seconds_per_answer_token"],
        } | bench.share(operations, timed["seconds"], dtype)  # fmt: skip

    def whole() -> dict[str, Any]:
        timed = bench.timed(
            lambda: attribute_neurons(model, few, options=AttributeOptions(metric="log_prob"), progress=False)
        )
        return row(timed, encoded(backend, few))

    def batch(n: int) -> dict[str, Any]:
        pairs = one_length(backend, asked, n)
        return row(bench.timed(lambda: gradient_x_activation(backend, pairs, base, positions="all")), pairs)

    def path() -> dict[str, Any]:
        prompt, answer = encoded(backend, few)[0]
        forced = run_forced(backend, prompt, answer[:1], NEURON_HOOK)
        mean = forced.activations.float().mean(1)
        timed = bench.timed(lambda: integrated_gradients(backend, forced, mean, nodes=4, positions="last"))
        passes = sum(5 * (shape.n_layers - layer) for layer in range(shape.n_layers)) + shape.n_layers
        operations = 4 * shape.body / shape.n_layers * passes + 4 * shape.unembedding * (5 * shape.n_layers + 1)
        goal = {"seconds_per_answer_token": timed["seconds"], "goal": GOAL["seconds_per_answer_token"]}
        return timed | goal | bench.share(operations, timed["seconds"], dtype)

    return {
        "attribute_neurons": whole,
        f"gradient x activation, a batch of {bench.sizes.n_batch}": lambda: batch(bench.sizes.n_batch),
        f"gradient x activation, a batch of {bench.sizes.n_batch // 4}": lambda: batch(bench.sizes.n_batch // 4),
        "integrated gradients, last position, 4 nodes": path,
    }


def leakage(bench: Bench, model: Any, shape: Shape, probes: ProbeSet) -> dict[str, Any]:
    """Extraction and exposure of all probes; random weights never stop, so that every answer has the greatest length."""
    from xlmech.options import MAX_NEW_TOKENS

    backend = backend_of(model)
    timed = bench.timed(lambda: measure_leakage(model, probes, progress=False), repeats=1, warm=False)
    operations = sum(
        cost_model.operations(shape, "leakage", prompt=len(prompt), answer=MAX_NEW_TOKENS)
        for prompt, _ in encoded(backend, probes)
    )
    started = time.perf_counter()
    measure_leakage(model, probes, measures=("exposure",), progress=False)
    return timed | {
        "n_probes": len(probes), "answer_tokens": MAX_NEW_TOKENS, "probes_per_second": len(probes) / timed["seconds"],
        "exposure_seconds": time.perf_counter() - started,
    } | bench.share(operations, timed["seconds"], backend.unembed.dtype)  # fmt: skip


def patching(bench: Bench, model: Any, shape: Shape) -> dict[str, Any]:
    """Every layer at the last position, of some pairs of questions in two languages."""
    backend = backend_of(model)
    asked = build_probes(demo_records(), ["en", "fr"], attributes=["occupation"], templates=[0, 1])
    pairs = [pair for pair in asked.pairs(source="en", target="fr")][: bench.sizes.n_pairs]
    timed = bench.timed(lambda: patch_languages(model, pairs, progress=False))
    mean = round(statistics.mean(len(encode_prompt(backend, pair.target.prompt)) for pair in pairs))
    operations = len(pairs) * cost_model.operations(shape, "patching", prompt=mean)
    return timed | {
        "n_pairs": len(pairs), "n_layers": backend.n_layers, "seconds_per_pair": timed["seconds"] / len(pairs),
    } | bench.share(operations, timed["seconds"], backend.unembed.dtype)  # fmt: skip


def ablation_operations(shape: Shape, neurons: torch.Tensor) -> float:
    """Rows pass the layers from their neuron's on; the vocabulary is read once, for the clean row."""
    return float(2 * shape.body / shape.n_layers * (shape.n_layers - neurons[:, 0]).sum() + 2 * shape.unembedding)


def ablation(bench: Bench, model: Any, shape: Shape, probes: ProbeSet) -> dict[str, Any]:
    """Exact effects of neurons at the last position, on one answer token."""
    backend = backend_of(model)
    prompt, answer = encoded(backend, probes)[0]
    forced, neurons = run_forced(backend, prompt, answer[:1], NEURON_HOOK), some_neurons(backend, bench.sizes.n_neurons)
    base = zero_baseline(backend)
    timed = bench.timed(lambda: exact_effects(backend, forced, base, positions="last", neurons=neurons))
    operations = ablation_operations(shape, neurons)
    return timed | {"n_neurons": len(neurons)} | bench.share(operations, timed["seconds"], backend.unembed.dtype)


# Where the host waits for the device


class CountReads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU, on a CPU: numbers that Python reads, and sizes that depend on values."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero")

    def __init__(self, places: Counter[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        if func.name() in self.READS:
            self.places[engine_line()] += 1
        return func(*args, **(kwargs or {}))


def engine_line() -> str:
    """The innermost line of xlmech that is running, and of a library called by it; "elsewhere" as in a GPU's backward pass."""
    frame: FrameType | None = sys._getframe(1)
    library = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "xlmech" in path.parts and path != Path(__file__):
            start = len(path.parts) - 1 - path.parts[::-1].index("xlmech")
            return f"{'/'.join(path.parts[start:])}:{frame.f_lineno}" + (f" in {library}" if library else "")
        if not library and path != Path(__file__) and "torch" not in path.parts and "site-packages" in path.parts:
            library = f"{'/'.join(path.parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def host_reads(device: torch.device, work: Callable[[], Any]) -> Counter[str]:
    """How often the host waits for the device, by line of xlmech."""
    places: Counter[str] = Counter()
    if device.type != "cuda":
        with CountReads(places):
            work()
        return places

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            places[engine_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return places


def busy(bench: Bench, work: Callable[[], Any]) -> dict[str, Any]:
    """Share of the time in which the device computes, and what takes most of it."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = bench.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    bench.synchronize()
    started = time.perf_counter()
    with profile(activities=[activity]) as profiled:
        work()
        bench.synchronize()
    seconds = time.perf_counter() - started
    events = profiled.key_averages()
    spent = {
        event.key: float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in events
    }
    most = sorted(spent, key=lambda key: -spent[key])[:10]
    return {
        "computing_share": sum(spent.values()) / 1e6 / seconds, "launches": sum(event.count for event in events),
        "most_milliseconds": {key[:100]: round(spent[key] / 1e3, 3) for key in most},
    }  # fmt: skip


def waits(bench: Bench, model: Any) -> dict[str, Work]:
    """Host reads, and the share of the time in which the device computes, of one batch of attribution and of ablation."""
    backend = backend_of(model)
    pairs = one_length(backend, questions(bench.sizes, ["fr"]), bench.sizes.n_batch)
    neurons, base = some_neurons(backend, bench.sizes.n_neurons), zero_baseline(backend)
    forced = cache(lambda: run_forced(backend, pairs[0][0], pairs[0][1][:1], NEURON_HOOK))
    works: dict[str, Callable[[], Any]] = {
        "gradient x activation": lambda: gradient_x_activation(backend, pairs, base, positions="all"),
        "exact ablation": lambda: exact_effects(backend, forced(), base, positions="last", neurons=neurons),
        "integrated gradients": lambda: integrated_gradients(backend, forced(), base, nodes=4, positions="last"),
        "generation": lambda: generate(backend, [prompt for prompt, _ in pairs], max_new_tokens=4),
    }

    def watched(work: Callable[[], Any]) -> dict[str, Any]:
        work()
        reads = host_reads(bench.device, work)
        return {"reads": sum(reads.values()), "by_line": dict(reads.most_common(25))} | busy(bench, work)

    return {name: partial(watched, work) for name, work in works.items()}


# Several devices


def over_devices(bench: Bench, place: Path) -> dict[str, Any]:
    """A small saved Llama spread over the devices there are by `device_map="auto"`: the largest difference from one device."""
    probes, folder = questions(SMALL), place / "spread"
    tokenizer = tokenizer_of(TINY["vocab_size"], SMALL, place / "small")
    network = network_of(config_of("Llama 3 8B", SMALL, 4), torch.float32, torch.device("cpu"), SCALE)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = load_model(folder, device="cpu", dtype="float32", backend="bridge")
    neurons = active_neurons(plain, probes, SMALL.n_neurons)
    wanted = numbers(plain, probes, neurons)
    places: Any = "auto" if bench.device.type == "cuda" else {"": "cpu"}
    spread = load_model(folder, device_map=places, dtype="float32", backend="bridge")
    found = numbers(spread, probes, neurons)
    used = sorted({str(weight.device) for weight in spread.original_model.parameters()})
    largest = max(float((found[what] - wanted[what]).abs().max() / wanted[what].abs().max()) for what in wanted)
    return {"devices": used, "largest": largest, "goal": GOAL["agreement"]}


# All of it


def free(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def measure(bench: Bench, name: str, dtype: torch.dtype, tokenizer: Any) -> None:
    """All parts for one model in one dtype."""
    keys, probes, made = {"model": name, "dtype": dtype_name(dtype)}, questions(bench.sizes), dict[str, Any]()
    config = config_of(name, bench.sizes)
    shape = shape_of(config)

    def load() -> dict[str, Any]:
        network = network_of(config, dtype, bench.device)
        bench.synchronize()
        started = time.perf_counter()
        made["model"] = hooked(network, tokenizer, bench.device, dtype)
        held = torch.cuda.memory_allocated(bench.device) / 1e9 if bench.device.type == "cuda" else None
        return {
            "wrapping_seconds": time.perf_counter() - started, "weights_gb": shape.weight_bytes(dtype_name(dtype)) / 1e9,
            "held_gb": held, "n_neurons": shape.n_layers * shape.d_mlp,
        }  # fmt: skip

    bench.part("load", load, **keys)
    if "model" not in made:
        return
    model = made["model"]
    for work, run in attribution(bench, model, shape).items():
        bench.part("attribution", run, work=work, **keys)
    bench.part("ablation", lambda: ablation(bench, model, shape, probes), **keys)
    for work, run in waits(bench, model).items():
        bench.part("host reads", run, work=work, **keys)
    bench.part("patching", lambda: patching(bench, model, shape), **keys)
    bench.part("leakage", lambda: leakage(bench, model, shape, probes), **keys)


def machine(device: torch.device) -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("transformers", "transformer-lens", "numpy")
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    } | {name: version(name) for name in packages}  # fmt: skip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1), "cuda": torch.version.cuda,
            "n_devices": torch.cuda.device_count(), "multiprocessors": properties.multi_processor_count,
        }  # fmt: skip
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description="The engine on a GPU: agreement with the CPU, speed, memory and waits."
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny models and little work")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES], metavar="DTYPE")
    parser.add_argument("--seconds", type=float, default=330, help="after so many, no further part begins")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    sizes = SMALL if given.tiny else Sizes(tiny=False)
    bench = Bench(torch.device(given.device), sizes, given.out, started + given.seconds)
    bench.found |= {"format": FORMAT, "machine": machine(bench.device), "tiny": given.tiny, "parts": []}
    print(json.dumps(bench.found["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as place:
        tokenizers: dict[str, Any] = {}
        for name in given.models:
            tokenizers[name] = tokenizer_of(
                config_of(name, sizes).vocab_size, sizes, Path(place) / name.replace(" ", "_")
            )
        bench.found["started_after_seconds"] = round(time.monotonic() - started, 1)
        for name in given.models:
            bench.part(
                "agreement", lambda name=name: agreement(bench, name, tokenizers[name]), model=name, dtype="float32"
            )
            free(bench)
        bench.part("device_map", lambda: over_devices(bench, Path(place)))
        bench.part("peak", lambda: matmul_peak(bench))
        for dtype in (DTYPES[dtype] for dtype in given.dtypes):
            for name in given.models:
                measure(bench, name, dtype, tokenizers[name])
                free(bench)
    bench.found["total_seconds"] = round(time.monotonic() - started, 1)
    bench.save()
    failed = [row for row in bench.found["parts"] if "error" in row]
    print(f"{len(bench.found['parts'])} parts, {len(failed)} failed, {bench.found['total_seconds']} s", flush=True)
    return bench.found


if __name__ == "__main__":
    main()
