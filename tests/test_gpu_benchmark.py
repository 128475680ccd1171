"""The GPU benchmark runs whole with tiny models on a CPU, where its two devices are one and so agree to the bit."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import xlmech

SCRIPT = Path(xlmech.__file__).parents[1] / "analyses" / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def found(gpu: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    gpu.main(["--device", "cpu", "--tiny", "--models", "Gemma 3 1B", "--dtypes", "bfloat16", "--out", str(out)])
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_no_part_fails(found: dict[str, Any]) -> None:
    assert [row["part"] for row in found["parts"] if "error" in row] == []
    wanted = {"load": 1, "attribution": 4, "ablation": 1, "host reads": 4, "patching": 1, "leakage": 1}
    wanted |= {"agreement": 1, "peak": 1, "device_map": 1}
    assert Counter(row["part"] for row in found["parts"]) == wanted


def test_one_device_agrees_with_itself(found: dict[str, Any]) -> None:
    (agreement,) = (row for row in found["parts"] if row["part"] == "agreement")
    assert len(agreement["differences"]) == 7 and agreement["largest"] == 0


def test_figures_are_of_the_work_that_was_done(found: dict[str, Any]) -> None:
    for row in found["parts"]:
        if "tflops" in row and row["part"] != "peak":
            assert row["seconds"] > 0 and 0 < row["share_of_peak"] < 1
        if row["part"] == "attribution" and "n_answer_tokens" in row:
            assert row["seconds_per_answer_token"] == row["seconds"] / row["n_answer_tokens"]
            assert row["n_neurons"] == 3 * 64


def test_a_part_that_fails_or_takes_too_long_is_told_and_the_next_one_runs(gpu: Any, tmp_path: Path) -> None:
    bench = gpu.Bench(torch.device("cpu"), gpu.SMALL, tmp_path / "gpu.json", math.inf, {"parts": []})
    bench.stop_at = time.monotonic() + 60
    bench.part("failing", lambda: {}["nothing"])
    bench.part("slow", lambda: time.sleep(5), limit=1)
    bench.part("good", lambda: {"value": 1})
    bench.stop_at = time.monotonic()
    bench.part("late", lambda: {"value": 1})
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert [row.get("error", "").partition(":")[0] for row in rows] == ["KeyError", "TimeoutError", "", "TimeoutError"]
    assert rows[2]["value"] == 1


def test_host_reads_are_counted_by_line_of_the_engine(gpu: Any) -> None:
    values = torch.arange(6.0)

    def read() -> None:
        float(values[0])
        values.nonzero()
        values.sum()

    assert gpu.host_reads(torch.device("cpu"), read) == {"elsewhere": 2}


def test_token_ids_reach_the_end_of_the_vocabulary(gpu: Any, tmp_path: Path) -> None:
    tokenizer = gpu.tokenizer_of(50_000, gpu.SMALL, tmp_path)
    assert len(tokenizer) == 50_000
    text = "Où est née Ana?"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids[1:]) == text and ids[0] == 2
    used = [tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_vocab() if "unused" not in token]
    assert max(used) > 49_000


def test_operations_of_attribution_are_a_forward_pass_less_than_with_a_baseline(gpu: Any) -> None:
    from xlmech.audit.cost_model import LLAMA_3_8B as SHAPE
    from xlmech.audit.cost_model import operations

    less = operations(SHAPE, "locate", prompt=20, answer=4) - gpu.attribution_operations(SHAPE, 20, 4)
    assert less == pytest.approx(2 * SHAPE.body * 20, rel=0.01)
