"""Say before a run what it will do: probes of each stage, and about how long it takes, how much memory and how much disk.

Nothing is loaded and nothing is written. Operations and memory are those of `xlmech.audit.cost_model`; the speed is that of a
matrix product of the model's width on this machine, measured for a fraction of a second. A run is slower than its products: the
demo's stages take one to six times as long on two cores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd
import torch

from xlmech.audit.audit import followed_probes, select_probes, worded_probes
from xlmech.audit.config import Config
from xlmech.audit.cost_model import Stage, memory, operations
from xlmech.audit.plan import AuditPlan
from xlmech.audit.preflight import Prepared
from xlmech.audit.stages.expected import expected_work
from xlmech.audit.stages.gates import select_gate_probes
from xlmech.engine.batching import BATCH_SIZE
from xlmech.models.load import find_device
from xlmech.models.shape import Shape
from xlmech.models.sources.config_shape import shape_of_source

SLOWDOWN = 6.0
"""How many times as long as its matrix products a stage may take."""
_STAGES: tuple[Stage, ...] = ("leakage", "lens", "locate", "ablate", "gates")
_LEAST_PRODUCTS = 5
_BASE_BYTES = 700_000_000
"""What a process holds before it loads a model."""
_FIGURES_BYTES = 10_000_000
"""Plotly's own code, and figures without many points."""
_BYTES_PER_QUESTION = 4_000
"""Of results and figures, on disk."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Forecast:
    """What a run will do.

    Attributes:
        stages: One row per stage: `stage`, `questions` (answers, or steps of training for `gates`), and `low` and `high`, seconds
            (NaN where the model's sizes are not known).
        memory_bytes: Largest memory of the process by formula, None where not known.
        disk_bytes: What the run folder and the checkpoint take, by formula; None where a checkpoint's size is not known.
        notes: What is not known, a sentence each.
    """

    stages: pd.DataFrame
    memory_bytes: float | None
    disk_bytes: float | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, float]:
        """Least and most seconds of all stages together; NaN where not known."""
        return float(self.stages.low.sum(skipna=False)), float(self.stages.high.sum(skipna=False))


def forecast(config: Config, prepared: Prepared) -> Forecast:
    """Forecast a run from its config, and from what `prepare` checked.

    Raises:
        FileNotFoundError: A model's path that does not exist.
        ValueError: Model files that are cut short or Git LFS pointers, or a device that is not there.
    """
    shape, reason = shape_of_source(config.model.source, trust_remote_code=config.model.trust_remote_code)
    device = find_device(config.model.device)
    dtype = _dtype(config.model.dtype, device)
    work = _work(shape, prepared)
    speed = product_speed(shape, device, dtype) if shape is not None else float("nan")
    rows = []
    for stage, (n, cost) in work.items():
        seconds = n * cost / speed
        rows.append({"stage": stage, "questions": n, "low": seconds, "high": SLOWDOWN * seconds})
    notes = [f"time and memory are not known: of {config.model.source}, {reason}"] if shape is None else []
    if shape is not None:
        longest = operations(shape, "leakage", answer=prepared.plan.max_new_tokens) / operations(shape, "leakage")
        notes.append(
            f"answers are taken to have 8 tokens; if a model always writes {prepared.plan.max_new_tokens} "
            f"(max_new_tokens), leakage and ablate take {longest:.1f} times as long"
        )
    return Forecast(
        stages=pd.DataFrame(rows),
        memory_bytes=_memory(shape, dtype, work),
        disk_bytes=_disk(config, shape, sum(n for n, _ in work.values())),
        notes=tuple(notes),
    )


def product_speed(shape: Shape, device: torch.device, dtype: str, *, seconds: float = 0.3) -> float:
    """Measure the operations per second of a matrix product of the model's width on this device: of the fastest of several.

    On a CPU a small product on one thread is timed, since a large one on all of them tells how busy they are; the speed is that
    of as many threads as torch uses.
    """
    kind, on_cpu = getattr(torch, dtype), device.type == "cpu"
    rows = torch.ones(BATCH_SIZE if on_cpu else 24 * BATCH_SIZE, shape.d_model).to(device, kind)
    weight = torch.ones(shape.d_model, shape.d_mlp).to(device, kind)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1 if on_cpu else n_threads)
    try:
        took: list[float] = []
        while len(took) < _LEAST_PRODUCTS or sum(took) < seconds:
            started = time.perf_counter()
            (rows @ weight)[0, 0].item()  # waits for the device
            took.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(n_threads)
    return 2 * rows.numel() * shape.d_mlp / min(took) * (n_threads if on_cpu else 1)


def _work(shape: Shape | None, prepared: Prepared) -> dict[str, tuple[int, float]]:
    """Count what each stage has to do; the lens at most so much, since which answers it can follow depends on the tokenizer."""
    plan: AuditPlan = prepared.plan
    probes, measured, locating = select_probes(prepared.people, plan)
    lens = followed_probes(probes, plan).spread_facts({"private": plan.lens_facts})
    gates = select_gate_probes(probes, measured, plan) if plan.mitigate is not None else None
    work = expected_work(shape, plan, measured=measured, n_lens=len(lens), locating=locating, gates=gates)
    if plan.asks_more:
        n = len(worded_probes(probes, measured, plan)) * plan.n_samples
        work = {"leakage": work["leakage"], "wordings": (n, work["leakage"][1])} | work
    return {stage: item for stage, item in work.items() if item[0]}


def _memory(shape: Shape | None, dtype: str, work: dict[str, tuple[int, float]]) -> float | None:
    """Weights, and the largest batch of a stage."""
    if shape is None:
        return None
    batches = [
        memory(shape, stage, dtype=dtype, batch=(4 if stage in ("leakage", "ablate") else 1) * BATCH_SIZE)
        for stage in _STAGES
        if stage in work
    ]
    return _BASE_BYTES + shape.weight_bytes(dtype) + max(batches, default=0.0)


def _disk(config: Config, shape: Shape | None, n_questions: int) -> float | None:
    """Results, and the checkpoint if there is to be one."""
    if config.export is None:
        return float(n_questions * _BYTES_PER_QUESTION + _FIGURES_BYTES)
    if shape is None:
        return None
    return float(n_questions * _BYTES_PER_QUESTION + _FIGURES_BYTES + shape.weight_bytes(config.export.dtype))


def _dtype(name: str, device: torch.device) -> str:
    """Return the precision that `auto` stands for, as when a model is loaded."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" else "float32"
