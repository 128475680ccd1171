"""How does the cost of an audit grow with probes, Ray actors and model size, and what does a crash cost?

Writes `figures/benchmarks/scaling.json` and, with `draw`, `scaling.html`; `tables` prints the documentation's tables.

    python analyses/benchmarks/scaling.py overhead growth kills models llama    # any of them; earlier ones are kept
    python analyses/benchmarks/scaling.py draw tables

Every point runs in a process of its own with one thread, on Llamas of random weights and a byte-level tokenizer.
`overhead` measures leakage and attribution of the same probes in one go, in shards, and on Ray with 1, 2 and 4 actors. `growth`
measures leakage of 1,000 to 100,000 probes in shards: seconds, peak of resident memory, bytes of the result. `kills` compares a
run that is killed twenty times and resumed with one that is not. `models` measures seconds and memory per stage for models of
growing size, and the formulas of `xlmech.audit.cost_model` beside them. `llama` gives the formulas for Llama 3 8B and 70B.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import drawing
from measuring import (
    FIGURES,
    give_back_free_memory,
    in_own_process,
    parser_of,
    peak_mb,
    resident_mb,
    save_byte_tokenizer,
    save_json,
    save_page,
)

SIZES = (1_000, 10_000, 100_000)
WIDTHS = {"0.01B": (256, 8), "0.05B": (512, 12), "0.1B": (768, 14), "0.3B": (1024, 22), "0.6B": (1536, 20)}
N_OVERHEAD = 1_200
N_KILLS = 20


def save_model(folder: Path, d_model: int = 32, n_layers: int = 3, d_vocab: int = 300) -> None:
    """A Llama of random weights, and a tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    save_byte_tokenizer(folder, d_vocab)
    torch.manual_seed(0)
    heads = max(2, d_model // 64)
    config = LlamaConfig(
        vocab_size=d_vocab, hidden_size=d_model, intermediate_size=4 * d_model, num_hidden_layers=n_layers,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=d_model // heads, max_position_embeddings=512,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def probes_of(n: int) -> Any:
    """So many probes: people asked for their month of birth in four languages."""
    from xlmech.data.probes import ProbeSet
    from xlmech.data.questions import build_probes
    from xlmech.data.records import Record

    people = [
        Record(id=f"p{number}", subject=f"Ana {number:06d}", attribute="birth_month", value=str(1 + number % 12))
        for number in range(-(-n // 4))
    ]
    return ProbeSet(build_probes(people, ["en", "fr", "de", "es"], templates=[0]).probes[:n])


def loaded(folder: str) -> Any:
    import torch

    from xlmech.models.load import load_model

    torch.set_num_threads(1)
    return load_model(folder, backend="bridge", dtype="float32")


# Points, each measured in a process of its own


def one_overhead(folder: str, way: str) -> dict[str, Any]:
    """Seconds of leakage and attribution, the second time in the process, and of starting."""
    from xlmech.execution.ray_pool import on_ray
    from xlmech.execution.resume import resumable
    from xlmech.leakage.measure import measure_leakage
    from xlmech.neurons.attribution.attribute import attribute_neurons

    model, probes = loaded(folder), probes_of(N_OVERHEAD)
    warm = probes[:64]

    def work(probes: Any) -> tuple[float, float]:
        started = time.perf_counter()
        measure_leakage(model, probes, progress=False)
        between = time.perf_counter()
        attribute_neurons(model, probes, progress=False)
        return between - started, time.perf_counter() - between

    with ExitStack() as stack:
        started = time.perf_counter()
        if way.startswith("ray"):
            stack.enter_context(on_ray("local", actors=int(way[3:]), num_cpus=0.5))
        place = stack.enter_context(tempfile.TemporaryDirectory())
        if way != "plain":
            stack.enter_context(resumable(place))
        work(warm)
        start = time.perf_counter() - started
        leakage, attribution = work(probes)
    return {"way": way, "probes": len(probes), "start": start, "leakage": leakage, "attribution": attribution}


def one_growth(folder: str, n: str) -> dict[str, Any]:
    """Processor seconds, memory and size of leakage in parts."""
    from xlmech.execution.resume import resumable
    from xlmech.leakage.measure import measure_leakage

    model = loaded(folder)
    give_back_free_memory()
    peak_mb(restart=True)
    before = resident_mb()
    probes = probes_of(int(n))
    asked = resident_mb()
    with tempfile.TemporaryDirectory() as place, resumable(Path(place) / "parts"):
        started = time.process_time()
        found = measure_leakage(model, probes, progress=False)
        seconds = time.process_time() - started
        found.save(Path(place) / "result")
        size = sum(path.stat().st_size for path in (Path(place) / "result").rglob("*"))
        parts = sum(path.stat().st_size for path in (Path(place) / "parts").rglob("*") if path.is_file())
    return {
        "probes": len(probes), "seconds": seconds, "peak_mb": peak_mb(), "model_mb": before, "with_probes_mb": asked,
        "result_bytes": size, "parts_bytes": parts,
    }  # fmt: skip


def one_model(folder: str, stage: str) -> dict[str, Any]:
    """Seconds per probe and memory beyond what the process held, of one stage on one model."""
    import torch
    from transformers import AutoConfig

    from xlmech.audit import cost_model
    from xlmech.leakage.measure import measure_leakage
    from xlmech.lens.logit import logit_lens
    from xlmech.models.shape import shape_of
    from xlmech.neurons.attribution.attribute import attribute_neurons

    torch.set_num_threads(1)
    empty = resident_mb()
    model, n = loaded(folder), {"leakage": 32, "lens": 32, "locate": 16}[stage]
    for weight in model.original_model.parameters():
        weight.sum()  # the file is mapped: now it is read
    give_back_free_memory()
    peak_mb(restart=True)
    held, probes = resident_mb(), probes_of(n)
    shape = shape_of(AutoConfig.from_pretrained(folder))
    prompt = sum(len(probe.prompt.encode()) + 1 for probe in probes) / n
    started = time.perf_counter()
    if stage == "leakage":
        measure_leakage(model, probes, progress=False)
    elif stage == "lens":
        logit_lens(model, probes, progress=False)
    else:
        attribute_neurons(model, probes, progress=False)
    seconds = time.perf_counter() - started
    answer = (
        20 if stage == "leakage" else sum(len(probe.answers[probe.query_language].encode()) for probe in probes) / n
    )
    operations = cost_model.operations(shape, stage, prompt=round(prompt), answer=round(answer))
    alike = max(
        Counter(len(probe.prompt.encode()) for probe in probes).values()
    )  # a batch, but for generation, is of one length
    batch = n if stage == "leakage" else alike
    formula = cost_model.memory(shape, stage, dtype="float32", batch=batch, prompt=round(prompt), answer=round(answer))
    return {
        "stage": stage, "parameters": sum(weight.numel() for weight in model.original_model.parameters()),
        "formula_parameters": shape.n_parameters, "weights_mb": shape.weight_bytes("float32") / 2**20,
        "loading_mb": held - empty, "batch_mb": peak_mb() - held,
        "formula_batch_mb": formula / 2**20,
        "seconds_per_probe": seconds / n, "operations_per_probe": operations, "gflops": operations * n / seconds / 1e9,
    }  # fmt: skip


# Jobs: several points each


def child(job: str, *arguments: str) -> dict[str, Any]:
    """Run one point in a process of its own, and print what it measured."""
    result = in_own_process(__file__, "--one", job, *arguments)
    print(job, *arguments[1:], json.dumps(result), flush=True)
    return result


def overhead(folder: Path) -> Iterator[dict[str, Any]]:
    save_model(folder / "small", 128, 6)
    for way in ("plain", "parts", "ray1", "ray2", "ray4"):
        yield child("overhead", str(folder / "small"), way)


def growth(folder: Path) -> Iterator[dict[str, Any]]:
    save_model(folder / "tiny")
    for n in SIZES:
        yield child("growth", str(folder / "tiny"), str(n))


def models(folder: Path) -> Iterator[dict[str, Any]]:
    for name, (d_model, n_layers) in WIDTHS.items():
        save_model(folder / name, d_model, n_layers, 8000)
        for stage in ("leakage", "lens", "locate"):
            yield {"model": name} | child("model", str(folder / name), stage)
        shutil.rmtree(folder / name)


def llama(_: Path) -> Iterator[dict[str, Any]]:
    from xlmech.audit.cost_model import LLAMA_3_8B, LLAMA_3_70B, Stage, memory, operations

    for name, shape in (("Llama 3 8B", LLAMA_3_8B), ("Llama 3 70B", LLAMA_3_70B)):
        for stage in get_args(Stage):
            held = memory(shape, "leakage" if stage == "ablate" else stage) / 1e9
            tflop = operations(shape, stage) / 1e12
            weights = shape.weight_bytes() / 1e9
            yield {
                "model": name,
                "stage": stage,
                "weights_gb": weights,
                "batch_gb": held,
                "tflop_per_probe": tflop,
            }


def kills(folder: Path) -> Iterator[dict[str, Any]]:
    """One run killed twenty times at random moments and continued, and one that is left alone: are their tables the same?"""
    import pandas as pd

    from xlmech.audit.config import read_config

    save_model(folder / "tiny")
    rows = [f"p{number},Ana {number:03d},birth_month,{1 + number % 12}" for number in range(60)]
    (folder / "people.csv").write_text("\n".join(["id,subject,attribute,value", *rows]) + "\n", encoding="utf-8")
    for name in ("whole", "killed"):
        text = (
            f"model: {{source: tiny, backend: bridge, dtype: float32}}\nout: {name}\npart_size: 4\nlocate: {{n_neurons: 10}}\n"
            "data: {records: people.csv, languages: [en, fr, de], measure_facts: 30, locate_facts: 30, "
            "lens_attributes: [birth_month]}\n"
        )
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    started = time.perf_counter()
    keep_on(folder / "whole.yaml")
    whole, chance, done = time.perf_counter() - started, random.Random(0), 0
    context = multiprocessing.get_context(
        "forkserver"
    )  # a fork of this process would have its locks, but not its threads
    context.set_forkserver_preload(["xlmech.audit.run", "transformer_lens.model_bridge"])
    while done < N_KILLS:
        process = context.Process(target=keep_on, args=(folder / "killed.yaml",))
        wanted = n_parts(folder / "killed") + chance.randint(0, 8)
        process.start()
        while process.is_alive() and n_parts(folder / "killed") < wanted:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        done += 1
    keep_on(folder / "killed.yaml")
    log = [json.loads(line) for line in (folder / "killed" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    frames = sorted(path.relative_to(folder / "whole") for path in (folder / "whole" / "results").rglob("*.parquet"))
    same = [
        pd.read_parquet(folder / "whole" / path).equals(pd.read_parquet(folder / "killed" / path)) for path in frames
    ]
    found = {
        "kills": done, "sessions": sum(line["event"] == "opened" for line in log), "tables": len(same), "identical": sum(same),
        "parts_computed": sum(line["event"] == "shard" for line in log),
        "parts_of_whole": n_parts(folder / "whole"),
        "damaged": sum(line["event"] == "damaged" for line in log), "seconds_of_whole": whole,
        "config": read_config(folder / "whole.yaml").shard_size,
    }  # fmt: skip
    print(found)
    yield found


def n_parts(run: Path) -> int:
    """Parts that were computed, by the log."""
    log = run / "log.jsonl"
    return log.read_text(encoding="utf-8").count('"event": "shard"') if log.is_file() else 0


def keep_on(path: Path) -> None:
    import torch

    from xlmech.audit.config import read_config
    from xlmech.audit.run import run_config

    torch.set_num_threads(1)
    run_config(read_config(path), resume=True, progress=False)


# The tables


def tables(found: dict[str, Any]) -> Iterator[str]:
    """What was measured as Markdown, for docs/benchmarks.md."""
    if rows := found.get("llama"):
        yield head("model", "stage", "weights, GB", "a batch of 16 besides, GB", "10^12 operations per probe")
        for row in rows:
            yield line(row["model"], row["stage"], row["weights_gb"], row["batch_gb"], row["tflop_per_probe"])
    if rows := found.get("models"):
        yield head("parameters", "stage", "seconds per probe", "GFLOP/s", "memory of the batch, MB", "by formula, MB")
        for row in rows:
            size = f"{row['parameters'] / 1e9:.3f}B"
            yield line(
                size, row["stage"], row["seconds_per_probe"], row["gflops"], row["batch_mb"], row["formula_batch_mb"]
            )
    if rows := found.get("overhead"):
        yield head(
            f"{rows[0]['probes']:,} probes", "start, s", "leakage, s", "attribution, s", "against one go", "efficiency"
        )
        whole = rows[0]["leakage"] + rows[0]["attribution"]
        for row in rows:
            seconds = row["leakage"] + row["attribution"]
            n = min(2, int(row["way"].removeprefix("ray"))) if row["way"].startswith("ray") else 1
            share = f"{whole / seconds / n:.0%}"
            yield line(row["way"], row["start"], row["leakage"], row["attribution"], seconds / whole, share)
    if rows := found.get("growth"):
        yield head("probes", "s", "ms per probe", "peak, MB", "before probes, MB", "result, MB", "parts, MB")
        for row in rows:
            per = 1000 * row["seconds"] / row["probes"]
            sizes = (row["result_bytes"] / 1e6, row["parts_bytes"] / 1e6)
            yield line(
                f"{row['probes']:,}", row["seconds"], per, f"{row['peak_mb']:.0f}", f"{row['model_mb']:.0f}", *sizes
            )


def head(*names: str) -> str:
    return "\n" + line(*names) + "\n" + line(*["---"] * len(names))


def line(*cells: Any) -> str:
    return "| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.3g}" for cell in cells) + " |"


JOBS = {"overhead": overhead, "growth": growth, "kills": kills, "models": models, "llama": llama}
ONE = {"overhead": one_overhead, "growth": one_growth, "model": one_model}


def main() -> None:
    """Run the jobs that are named, and keep the results of earlier ones."""
    parser = parser_of(__doc__)
    parser.add_argument("jobs", nargs="*", help=", ".join([*JOBS, "draw", "tables"]))
    parser.add_argument("--one", nargs="+", help="(used by itself) a point and its arguments")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ONE[given.one[0]](*given.one[1:])))
        return
    path = FIGURES / "scaling.json"
    for job in given.jobs:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if job == "draw":
            save_page(drawing.scaling(found), "scaling")
            continue
        if job == "tables":
            print("\n".join(tables(found)))
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[job] = []
            for row in JOBS[job](Path(folder)):
                found[job].append(row)
                save_json(found, "scaling")


if __name__ == "__main__":
    main()
