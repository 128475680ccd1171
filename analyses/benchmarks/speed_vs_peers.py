"""How fast and how exact is the engine, compared with the ways its work is usually done?

Writes `figures/benchmarks/speed_vs_peers.json` and `.html` (not with `--quick`), and prints JSON as its last line.

    python analyses/benchmarks/speed_vs_peers.py                # five runs of each
    python analyses/benchmarks/speed_vs_peers.py --quick        # one run, peers on a sample of their passes
    python analyses/benchmarks/speed_vs_peers.py --one-thread   # processor seconds, for a machine that does other work too

xlmech and each peer run in turn in one process, on the same model, prompts and number of threads. Ratios are of medians.
Where a peer repeats one pass thousands of times, a sample of the passes is timed and scaled, and the row gives the share. The
rows of leakage, lens and all positions are repeated three times at most. Three models of random weights, shaped like small
Llama, Qwen2 and GPT-2 models, are attributed and ablated besides the planted model. A run of some rows (`--only`) keeps the
other rows of an earlier run on the same kind of machine. Needs `pip install "xlmech[peers]"`.
"""

from __future__ import annotations

import json
import os.path
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import drawing
import peers
import torch
from measuring import FIGURES, parser_of, save_byte_tokenizer, save_json, save_page
from scipy.stats import spearmanr

from xlmech import build_probes, demo_records, load_model, logit_lens, measure_leakage
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.engine.batching import Forced, Recorder, run_forced
from xlmech.engine.interventions import replace, run_interventions
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.tokens import encode_choices, encode_probe
from xlmech.neurons.attribution.effects import exact_effects, integrated_gradients
from xlmech.neurons.attribution.node_search import nodes_needed

TOLERANCE = {"last": 1.5e-5, "all": 3e-6}
COUNTS = {"last": (1, 2, 3, 4, 5, 6, 8), "all": (4, 6, 8, 10, 12, 14, 18, 24, 32)}
"""How many nodes each layer needs is looked for among these, on other people's prompts, for this error of the whole; each row
reports the error on the prompt that is timed beside that of the peer's 20 steps."""
N_PRACTICE = 4
"""Prompts on which nodes are looked for, where there are as many of one length."""
PLANTED = "gemma-3-270m, planted"
SHAPES = ("llama", "qwen2", "gpt2")
GOALS = {
    "IG, last position": 150, "IG, all positions": 12, "IG, last position, lean loop": 40, "exact ablation of 2,000 neurons": 40,
    "patching, layer x position": 15, "patching, last position": 30, "leakage, batch 1": 10, "leakage, batched": 2,
    "logit lens": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of ours and of the peer, medians over repeats, and both errors."""

    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    error_ours: float | None
    error_peer: float | None
    timed_share: float = 1.0
    model: str = PLANTED
    nodes: list[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the last line printed."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        spread = [min(self.theirs) / max(self.ours), max(self.theirs) / min(self.ours)]
        return {
            "work": self.work, "peer": self.peer, "model": self.model, "ratio": round(theirs / ours, 2),
            "ratio_lowest_highest": [round(value, 2) for value in spread], "goal": GOALS.get(self.work),
            "seconds_ours": round(ours, 4), "seconds_peer": round(theirs, 4), "error_ours": self.error_ours,
            "error_peer": self.error_peer, "share_of_the_peers_passes_timed": round(self.timed_share, 4), "runs": len(self.ours),
            "nodes_per_layer": self.nodes,
        }  # fmt: skip


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the clock, or of the processor where there is one thread: other work on the machine does not count there."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    found = function()
    return clock() - started, found


def in_turn(
    ours: Callable[[], Any], peer: Callable[[], Any], repeats: int, *, warm: bool = True
) -> tuple[list[float], list[float], Any, Any]:
    """Run both in turn, after one run of ours that is not counted where `warm`; times and last results."""
    if warm:
        ours()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        one, mine = seconds(ours)
        two, theirs = seconds(peer)
        times[0].append(one)
        times[1].append(two)
    return *times, mine, theirs


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@dataclass(frozen=True)
class Case:
    """One prompt whose next token is attributed, with baseline prompts of the same length.

    Attributes:
        backend: The model.
        forced: The prompt with its next token.
        other: The prompt with another last token.
        target: The next token.
        source: Another prompt, for all positions.
    """

    backend: Backend
    forced: Forced
    other: Forced
    target: int
    source: list[int] | None = None

    def baseline(self, positions: str) -> tuple[Forced, torch.Tensor]:
        """The baseline's run and (layer, position, neuron) activations."""
        start = (
            self.other
            if positions == "last"
            else run_forced(self.backend, self.source or [], [self.target], NEURON_HOOK)
        )
        return start, start.activations[:, : self.forced.n_prompt + 1].float()

    @property
    def network(self) -> Any:
        """The transformers model inside the bridge: the peers run it as they would without xlmech."""
        return self.backend.model.original_model

    @property
    def prompt(self) -> torch.Tensor:
        """(1, position) tokens."""
        return self.forced.tokens[: self.forced.n_prompt][None]


def case_of(backend: Backend, tokens: list[int], target: int, last: int, source: list[int] | None = None) -> Case:
    """The baseline prompt differs in its last token, so that captum's path moves the last position only."""
    forced, baseline = (run_forced(backend, prompt, [target], NEURON_HOOK) for prompt in (tokens, [*tokens[:-1], last]))
    return Case(backend=backend, forced=forced, other=baseline, target=target, source=source)


def planted_cases(backend: Backend) -> tuple[Case, list[Case]]:
    """One person's French question, and others' to look for nodes on, each with the next one's of equal length as a baseline."""
    people = build_probes(demo_records(), ["fr"], attributes=["occupation"], templates=[2])
    asked = [(list(item.prompt), item.answer[0]) for item in (encode_probe(backend, probe) for probe in people)]
    alike = [pair for pair in asked if len(pair[0]) == len(asked[0][0])][: N_PRACTICE + 2]
    (last,) = encode_choices(backend, people[0], [":"], max_answer_tokens=1).answers[0]
    case, *practice = [case_of(backend, *pair, last, other) for pair, (other, _) in pairwise(alike)]
    return case, practice


def random_cases(shape: str) -> tuple[Case, list[Case]]:
    """A model of random weights in the shape of a small one of its kind, and twice twelve random tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    names = {"n_layer": 12, "n_embd": 768, "n_head": 12} if shape == "gpt2" else {
        "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4,
        "intermediate_size": 2048,
    }  # fmt: skip
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape, vocab_size=32000, **names)).eval()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = save_byte_tokenizer(folder, 32000)
        model = load_model(network, tokenizer=tokenizer, backend="bridge", dtype="float32", device="cpu")
    backend = backend_of(model)
    drawn = torch.randint(3, 32000, (2, 14)).tolist()
    one, two = (case_of(backend, tokens[:12], tokens[12], tokens[13]) for tokens in drawn)
    return one, [two]


def attribution(
    case: Case,
    practice: list[Case],
    repeats: int,
    quick: bool,
    model: str,
    positions_wanted: tuple[str, ...] = ("last",),
) -> Iterator[Row]:
    """Integrated gradients at `last`, or at all positions, from another prompt.

    How many nodes each layer needs is looked for on `practice`, which are not timed, and the error is that of `case`.
    """
    backend, forced, plain = case.backend, case.forced, case.network
    last = forced.n_prompt - 1
    layers = list(range(backend.n_layers))
    sample = layers[:: max(1, len(layers) // 2)] if quick else layers[::2]
    scale = len(layers) / len(sample)
    for positions in positions_wanted:
        name = f"IG, {positions} position{'s' if positions == 'all' else ''}"
        start, base = case.baseline(positions)
        nodes = nodes_needed(
            backend,
            [(other.forced, other.baseline(positions)[1]) for other in practice],
            tolerance=TOLERANCE[positions],
            positions=positions,  # type: ignore[arg-type]
            counts=COUNTS[positions],
        )

        def ours(nodes: Any = nodes, base: torch.Tensor = base, at: Any = positions) -> torch.Tensor:
            return integrated_gradients(backend, forced, base, nodes=nodes, positions=at)[0]

        wanted, tokens, baseline = ours(nodes=2 * max(nodes)), case.prompt, start.tokens[: last + 1][None]
        runs = in_turn(
            ours,
            lambda t=tokens, b=baseline: peers.captum_layers(plain, t, b, case.target, sample),
            repeats if positions == "last" else min(3, repeats),
        )
        theirs = torch.stack(runs[3]).sum(1)
        errors = relative_error(runs[2], wanted), relative_error(theirs, wanted[sample])
        yield Row(name, "captum LayerIntegratedGradients, 20 steps", runs[0], [scale * s for s in runs[1]],
                  *errors, 1 / scale, model, nodes)  # fmt: skip
        if positions == "last":
            runs = in_turn(
                ours,
                lambda b=base: peers.lean_layers(plain, case.prompt, b[:, : last + 1], case.target, sample),
                repeats,
            )
            errors = relative_error(runs[2], wanted), relative_error(torch.stack(runs[3]).sum(1), wanted[sample])
            yield Row(name + ", lean loop", "plain loop, logits at the last position only", runs[0], [scale * s for s in runs[1]],
                      *errors, 1 / scale, model, nodes)  # fmt: skip


def some_neurons(backend: Backend, n: int = 2000) -> torch.Tensor:
    """(n, 2) layer and number of neurons drawn from the whole model."""
    units = torch.randperm(backend.n_layers * backend.d_mlp, generator=torch.Generator().manual_seed(0))[:n]
    return torch.stack([units // backend.d_mlp, units % backend.d_mlp], dim=1)


def exact(case: Case, repeats: int, quick: bool, model: str) -> Row:
    backend, plain = case.backend, case.network
    neurons = some_neurons(backend)
    zero = torch.zeros(backend.n_layers, backend.d_mlp)
    step = len(neurons) // (25 if quick else 40)
    sample = neurons[::step]
    pairs = [(layer, neuron) for layer, neuron in sample.tolist()]
    runs = in_turn(
        lambda: exact_effects(backend, case.forced, zero, positions="last", neurons=neurons),
        lambda: peers.ablate_one_by_one(plain, case.prompt, case.target, pairs),
        repeats,
    )
    wanted = peers.ablate_one_by_one(plain.double(), case.prompt, case.target, pairs)
    plain.float()
    scale = len(neurons) / len(sample)
    errors = relative_error(runs[2][::step], wanted), relative_error(runs[3], wanted)
    return Row("exact ablation of 2,000 neurons", "one hooked forward pass per neuron", runs[0], [scale * s for s in runs[1]],
               *errors, 1 / scale, model)  # fmt: skip


@torch.no_grad()
def sweep(case: Case, positions: range) -> torch.Tensor:
    """(layer, position) log-probability of the target with the source's resid_post there.

    Where both prompts begin alike, the source's activation is the prompt's own, and nothing changes.
    """
    backend, n, source = case.backend, case.forced.n_prompt, case.source or []
    common = len(os.path.commonprefix([source, case.prompt[0].tolist()]))
    recorder = Recorder(backend, "hook_resid_post")
    with backend.hooks(recorder.hooks()):
        clean, past = backend.hidden(torch.cat([torch.tensor([source]), case.prompt]))
    given, past = torch.stack([kept[0] for kept in recorder.kept]), past.select(torch.tensor([1]))
    last = []
    for place in (place for place in positions if place >= common):
        rows = [
            replace("hook_resid_post", layer, given[layer, place][None, None, None], positions=slice(0, 1))
            for layer in range(backend.n_layers)
        ]
        states = run_interventions(backend, case.prompt[:, place:n], rows, past=past.until(place))
        last.append(torch.cat([edited[0, :, -1] for edited in states.edited]))
    hidden = torch.cat([clean[1:, -1], *last])
    scores = token_log_prob(hidden, backend.unembed, torch.full((len(hidden),), case.target), **backend.unembed_options)
    unchanged = [scores[0].expand(backend.n_layers)] * sum(place < common for place in positions)
    return torch.stack([*unchanged, *scores[1:].split(backend.n_layers)], dim=1)


def patching(case: Case, repeats: int, quick: bool, model: str) -> Iterator[Row]:
    backend, n = case.backend, case.forced.n_prompt
    for name, positions in (("patching, layer x position", range(n)), ("patching, last position", range(n - 1, n))):
        places = [(layer, place) for layer in range(backend.n_layers) for place in positions]
        step = max(1, len(places) // (12 if quick else 36))
        sample = places[::step]
        runs = in_turn(
            lambda positions=positions: sweep(case, positions),
            lambda sample=sample: peers.transformer_lens_sweep(
                backend.model, torch.tensor([case.source]), case.prompt, case.target, sample
            ),
            repeats,
        )
        ours = runs[2].flatten()[::step] if len(positions) > 1 else runs[2][:, 0][::step]
        error = float((ours - runs[3]).abs().max())
        scale = len(places) / len(sample)
        yield Row(name, "TransformerLens patching.generic_activation_patch", runs[0], [scale * s for s in runs[1]], error, 0.0,
                  1 / scale, model)  # fmt: skip


def leakage(model: Any, probes: ProbeSet, repeats: int, quick: bool) -> Iterator[Row]:
    """480 questions: greedy answers, and the rank among the occupations' forms in the plant and the query language."""
    from xlmech.data.candidates import candidate_forms

    plain = model.original_model
    records = demo_records()
    forms = {
        probe.id: sorted(
            {
                by[code]
                for by in candidate_forms(probes, records)["occupation"].values()
                for code in ("en", probe.query_language)
            }
        )
        for probe in probes
    }
    in_context = [encode_choices(backend_of(model), probe, forms[probe.id]).answers for probe in probes]
    longest = 1 + max(len(tokens) for answers in in_context for tokens in answers)
    samples = {
        batch: probes[:: max(1, len(probes) // size)]
        for batch, size in ((1, 1 if quick else 4), (32, 4 if quick else 16))
    }

    def ours() -> Any:
        return measure_leakage(
            model, probes, measures=("extraction", "exposure"), candidates=records, form_languages=None, progress=False
        )

    def peer(batch: int) -> Any:
        prompts, answers = [p.prompt for p in samples[batch]], [forms[p.id] for p in samples[batch]]
        return peers.generate_and_score(plain, backend_of(model).tokenizer, prompts, answers, longest, batch)

    mine: list[float] = []
    theirs: dict[int, list[float]] = {batch: [] for batch in samples}
    scores: dict[int, Any] = {}
    for _ in range(min(3, repeats)):
        taken, result = seconds(ours)
        mine.append(taken)
        for batch in samples:
            taken, (_, scores[batch]) = seconds(lambda batch=batch: peer(batch))
            theirs[batch].append(taken)
    frame = result.probes.set_index("probe")
    for (batch, few), name in zip(samples.items(), ("leakage, batch 1", "leakage, batched"), strict=True):
        best = [max(score for form, score in zip(forms[probe.id], found, strict=True) if form in probe.answers.values())
                for probe, found in zip(few, scores[batch], strict=True)]  # fmt: skip
        error = max(abs(frame.log_prob[probe.id] - value) for probe, value in zip(few, best, strict=True))
        scale = len(probes) / len(few)
        yield Row(name, f"transformers generate and a scoring loop, batch {batch}", mine,
                  [scale * s for s in theirs[batch]], float(error), 0.0, 1 / scale)  # fmt: skip


def lens(model: Any, probes: ProbeSet, repeats: int) -> Row:
    backend = backend_of(model)
    grouped: dict[int, list[tuple[list[int], list[int]]]] = {}
    for probe in probes:
        item = encode_probe(backend, probe, languages=probe.answers)
        grouped.setdefault(len(item.prompt), []).append((list(item.prompt), list(item.first_tokens.values())))
    batches = [cases[start : start + 32] for cases in grouped.values() for start in range(0, len(cases), 32)]
    tokens, wanted = (
        [torch.tensor([t for t, _ in batch]) for batch in batches],
        [[w for _, w in batch] for batch in batches],
    )
    runs = in_turn(
        lambda: logit_lens(model, probes, progress=False),
        lambda: peers.lens_by_hand(model.original_model, tokens, wanted),
        min(3, repeats),
        warm=False,
    )
    return Row("logit lens", "transformers hidden states, batched by hand", runs[0], runs[1], None, None)


def other_shape(shape: str, repeats: int) -> Iterator[Row]:
    (case, practice), name = random_cases(shape), f"{shape}, random weights"
    yield from attribution(case, practice, repeats, True, name)
    yield exact(case, repeats, True, name)


def bfloat16(case: Case, repeats: int) -> dict[str, float]:
    """The planted model in bfloat16 against float32: speed, and how far attributions, ablations and answers move."""
    low = backend_of(load_model("demo", backend="bridge", dtype="bfloat16", device="cpu"))
    last = case.forced.n_prompt - 1
    base, zero = case.other.activations[:, : last + 2].float(), torch.zeros(low.n_layers, low.d_mlp)
    neurons = some_neurons(low)[::4]
    forced = {
        backend: run_forced(backend, case.prompt[0].tolist(), [case.target], NEURON_HOOK)
        for backend in (low, case.backend)
    }

    def attribute(backend: Backend) -> torch.Tensor:
        return integrated_gradients(backend, forced[backend], base, nodes=4, positions="last")[0]

    def ablate(backend: Backend) -> torch.Tensor:
        return exact_effects(backend, forced[backend], zero, positions="last", neurons=neurons)

    def log_prob(backend: Backend) -> float:
        with torch.no_grad():
            hidden, _ = backend.hidden(case.prompt)
            return float(
                token_log_prob(hidden[:, -1], backend.unembed, torch.tensor([case.target]), **backend.unembed_options)
            )

    *times, found, wanted = in_turn(lambda: attribute(low), lambda: attribute(case.backend), repeats)
    *exact_times, _, _ = in_turn(lambda: ablate(low), lambda: ablate(case.backend), repeats)
    top = [set(scores.flatten().topk(100).indices.tolist()) for scores in (found, wanted)]
    return {
        "speedup": statistics.median(times[1]) / statistics.median(times[0]),
        "speedup_exact_ablation": statistics.median(exact_times[1]) / statistics.median(exact_times[0]),
        "seconds_bfloat16": statistics.median(times[0]),
        "seconds_float32": statistics.median(times[1]),
        "relative_error": relative_error(found, wanted),
        "spearman": float(spearmanr(found.flatten(), wanted.flatten()).statistic),
        "top_100_in_common": len(top[0] & top[1]) / 100,
        "log_prob_difference": abs(log_prob(low) - log_prob(case.backend)),
    }


def matmul_peak() -> float:
    """Floating-point operations per second of the best of several square products in float32, by MKL and by oneDNN."""
    a, best = torch.randn(2048, 2048), 0.0
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    products = [lambda: a @ a, *([lambda: onednn(a, a, None, "none", [], "")] if onednn else [])]
    for product in products * 12:
        taken, _ = seconds(product)
        best = max(best, 2 * 2048**3 / taken)
    return best


def operations(backend: Backend, nodes: list[int]) -> dict[str, float]:
    """Floating-point operations that the work needs: 2 per weight and row in every layer that a row passes.

    Attribution: rows (a layer's nodes and its baseline) pass their own layer and those above, once forward and once backward
    (to activations; weights are frozen), and every row is projected on the vocabulary once; the second projection of the
    gradient is not counted. Exact ablation: forward only, one full projection per batch; the pruned ones are not counted.
    """
    layers = backend.model.original_model.model.layers
    block = sum(weight.numel() for weight in layers[0].parameters() if weight.ndim == 2)
    passed = [backend.n_layers - layer for layer in range(backend.n_layers)]
    head, rows = 2 * backend.unembed.numel(), [n + 1 for n in nodes]
    through = sum(n * depth for n, depth in zip(rows, passed, strict=True)) + backend.n_layers
    ablation = 2 * block * (2000 / backend.n_layers * sum(passed)) + head * 4
    return {"attribution_fp32": 4.0 * block * through + head * (sum(rows) + 1), "exact_fp32": float(ablation)}


def peak_share(rows: list[dict[str, Any]], low: dict[str, float], backend: Backend) -> dict[str, float]:
    """Share of the measured matrix-multiply peak, of the works among `rows`, and what bfloat16 brings."""
    works = {"IG, last position": "attribution_fp32", "exact ablation of 2,000 neurons": "exact_fp32"}
    found: dict[str, float] = {"bf16_speedup": low["speedup"]} if low else {}
    peak = matmul_peak()
    for row in rows:
        if row["model"] == PLANTED and row["work"] in works:
            name = works[row["work"]]
            needed = operations(backend, row["nodes_per_layer"] or [4] * backend.n_layers)[name]
            found |= {name: needed / row["seconds_ours"] / peak, f"{name}_peak_gflops": round(peak / 1e9, 1)}
    return found


def last_line(found: dict[str, Any]) -> str:
    """The fields that are asked for, and no others; null where a run of some parts did not measure one."""
    fields = ("work", "peer", "ratio", "seconds_ours", "seconds_peer", "error_ours", "error_peer")
    rows = []
    for row in found["rows"]:
        work = row["work"] if row["model"] == PLANTED else f"{row['work']} ({row['model']})"
        rows.append({name: row[name] for name in fields} | {"work": work})
    share = {name: found["peak_share"].get(name) for name in ("attribution_fp32", "exact_fp32", "bf16_speedup")}
    return json.dumps({"rows": rows, "peak_share": share, "machine": found["machine"]})


def with_earlier(found: dict[str, Any]) -> dict[str, Any]:
    """What this run measured, and of the figures' file what it did not measure again, if from a like machine."""
    path = FIGURES / "speed_vs_peers.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if earlier.get("machine") != found["machine"]:
        return found
    again = {(row["work"], row["model"]) for row in found["rows"]}
    kept = [row for row in earlier["rows"] if (row["work"], row["model"]) not in again]
    order = [*GOALS]
    return {
        "rows": sorted(
            found["rows"] + kept, key=lambda row: (row["model"] != PLANTED, row["model"], order.index(row["work"]))
        ),
        "peak_share": earlier["peak_share"] | found["peak_share"],
        "bfloat16": found["bfloat16"] or earlier["bfloat16"],
        "machine": found["machine"],
    }


def keep(found: dict[str, Any]) -> None:
    """Write what is known so far: a long run that is stopped has measured something."""
    save_page(drawing.speed(found["rows"]), "speed_vs_peers")
    save_json(found, "speed_vs_peers")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="one run, peers on a sample")
    parser.add_argument("--repeats", type=int, help="runs of each (5, or 1 with --quick)")
    parser.add_argument("--probes", type=int, help="probes of the leakage and lens rows (480, or 8 with --quick)")
    parser.add_argument(
        "--only", nargs="+", help="only these parts, e.g. IG exact patching leakage lens llama bfloat16"
    )
    parser.add_argument(
        "--one-thread", action="store_true", help="processor seconds of one thread: for a machine that is not quiet"
    )
    arguments = parser.parse_args()
    if arguments.one_thread:
        torch.set_num_threads(1)
    repeats, quick = arguments.repeats or (1 if arguments.quick else 5), arguments.quick
    model = load_model("demo", backend="bridge", dtype="float32", device="cpu")
    backend = backend_of(model)
    case, practice = planted_cases(backend)
    asked = build_probes(demo_records(), DEMO_LANGUAGES, attributes=["occupation"], templates=[1, 2])
    asked = ProbeSet(tuple(asked)[:: max(1, len(asked) // 480)][: arguments.probes or (8 if quick else 480)])
    stages: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        ("IG", lambda: attribution(case, practice, repeats, quick, PLANTED)),
        ("all", lambda: attribution(case, practice, repeats, quick, PLANTED, ("all",))),
        ("exact", lambda: iter([exact(case, repeats, quick, PLANTED)])),
        ("patching", lambda: patching(case, repeats, quick, PLANTED)),
        ("leakage", lambda: leakage(model, asked, repeats, quick)),
        ("lens", lambda: iter([lens(model, asked, repeats)])),
    ]
    for shape in () if quick else SHAPES:
        stages.append((shape, lambda shape=shape: other_shape(shape, repeats)))  # type: ignore[misc]
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
               "seconds": "of the processor" if arguments.one_thread else "of the clock",
               "instructions": torch.backends.cpu.get_cpu_capability(), "prompt_tokens": case.forced.n_prompt,
               "torch": torch.__version__}  # fmt: skip
    found: dict[str, Any] = {"rows": [], "peak_share": {}, "bfloat16": {}, "machine": machine}
    for name, stage in stages:
        if arguments.only and name not in arguments.only:
            continue
        for row in stage():
            found["rows"].append(row.to_json())
            print(json.dumps(found["rows"][-1]), flush=True)
            if not quick:
                keep(with_earlier(found))
    if "bfloat16" in (arguments.only or ["bfloat16"]):
        found["bfloat16"] = bfloat16(case, repeats)
    found["peak_share"] = peak_share(found["rows"], found["bfloat16"], backend)
    if not quick:
        found = with_earlier(found)
        keep(found)
    print(last_line(found))


if __name__ == "__main__":
    main()
