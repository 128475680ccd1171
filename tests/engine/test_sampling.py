"""Sampled answers against an uncached, unbatched loop over full rows of logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny_models import D_VOCAB, tiny

from xlmech.data.probes import ProbeSet
from xlmech.engine import sampling
from xlmech.engine.generate import generate, sample
from xlmech.engine.sampling import Sampling, drawn_tokens
from xlmech.execution.resume import resumable
from xlmech.leakage.measure import measure_leakage
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model

DRAWS = Sampling(n_samples=3, temperature=1.5, seed=4)
NAMES = ["ada/en/0", "ada/fr/0", "bo/en/0", "bo/fr/0"]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK", 64)


@pytest.fixture
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [[2, *torch.randint(3, D_VOCAB, (length,), generator=generator).tolist()] for length in (3, 5, 3, 9)]


def _logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]), return_type="logits")[0, -1].double()


def _inverted(logits: torch.Tensor, uniform: float) -> int:
    return int(np.searchsorted(logits.softmax(0).cumsum(0).numpy(), uniform, side="right"))


def _plain(model: Any, prompt: list[int], number: int, sample: int, n: int, stop: int | None) -> list[int]:
    named = int.from_bytes(hashlib.blake2b(NAMES[number].encode(), digest_size=16).digest(), "big")
    uniform = np.random.default_rng((DRAWS.seed, named, sample)).random(n)
    written: list[int] = []
    for step in range(n):
        token = _inverted(_logits(model, [*prompt, *written]) / DRAWS.temperature, uniform[step])
        if token in (stop, model.tokenizer.eos_token_id):
            break
        written.append(token)
    return written


def test_samples_equal_the_uncached_unbatched_loop(model: Any, prompts: list[list[int]]) -> None:
    stop = _plain(model, prompts[0], 0, 0, 6, None)[2]
    wanted = [
        [_plain(model, prompt, number, draw, 6, stop) for draw in range(3)] for number, prompt in enumerate(prompts)
    ]
    assert len({len(tokens) for of_prompt in wanted for tokens in of_prompt}) > 1, "some row must stop before others"
    assert any(len({tuple(tokens) for tokens in of_prompt}) > 1 for of_prompt in wanted)
    for batch_size in (1, 6, 64):
        options = {"names": NAMES, "max_new_tokens": 6, "end_tokens": [stop], "batch_size": batch_size}
        found = sample(backend_of(model), prompts, DRAWS, **options)
        assert found == wanted


def test_a_prompt_is_run_once_for_all_its_samples(model: Any, prompts: list[list[int]]) -> None:
    backend, shapes = backend_of(model), []
    with backend.hooks([(backend.hook_name("mlp.hook_post", 0), lambda value, hook: shapes.append(value.shape[:2]))]):
        sample(backend, prompts[:1], DRAWS, names=NAMES[:1], max_new_tokens=2)
    assert [tuple(shape) for shape in shapes] == [(1, 4), (3, 1)]


def test_without_heat_the_samples_are_the_greedy_answer(model: Any, prompts: list[list[int]]) -> None:
    cold = sample(backend_of(model), prompts, Sampling(n_samples=2, temperature=1e-6), names=NAMES, max_new_tokens=4)
    assert cold == [[answer] * 2 for answer in generate(backend_of(model), prompts, max_new_tokens=4)]


@pytest.mark.parametrize("kind", ["bias", "softcap"])
def test_drawn_tokens_invert_the_models_own_distribution(kind: str, tokenizer: Any) -> None:
    model = load_model(tiny("gemma2").double(), tokenizer=tokenizer, dtype=torch.float64, backend="bridge")
    backend = backend_of(model)
    with torch.no_grad():
        hidden, _ = backend.hidden(torch.tensor([[2, 9, 17]]))
        if kind == "bias":
            backend.unembed_bias = torch.linspace(-3, 3, D_VOCAB, dtype=torch.float64)
    uniform = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)
    found = drawn_tokens(backend, hidden[:, -1].expand(97, -1), uniform, 0.7)
    logits = hidden[0, -1].double() @ backend.unembed.double().T
    logits = logits if backend.unembed_bias is None else logits + backend.unembed_bias
    logits = logits if backend.softcap is None else backend.softcap * (logits / backend.softcap).tanh()
    wanted = [_inverted(logits / 0.7, number) for number in uniform.tolist()]
    assert len(set(wanted)) > 5
    assert found.tolist() == wanted


def test_a_token_without_probability_is_never_drawn() -> None:
    shares = torch.tensor([[0.25, 0.0, 0.75]] * 4, dtype=torch.float64)
    place, rest = sampling._invert(shares, torch.tensor([0.0, 0.125, 0.25, 0.999], dtype=torch.float64))
    assert place.tolist() == [0, 0, 2, 2]
    assert rest.tolist() == pytest.approx([0, 0.5, 0, 0.999 / 0.75 - 0.25 / 0.75])


def test_uniform_numbers_depend_on_seed_name_and_sample_alone() -> None:
    all_of = DRAWS.uniform(["a", "b", "c"], 8)
    assert all_of.shape == (9, 8)
    assert torch.equal(DRAWS.uniform(["c"], 8), all_of[6:])
    assert torch.equal(DRAWS.uniform(["c"], 3), all_of[6:, :3])
    assert len(all_of.unique()) == 72
    assert not torch.equal(Sampling(n_samples=3, seed=5).uniform(["a"], 8), all_of[:3])
    # The same in every process.
    assert all_of[0, :2].tolist() == pytest.approx([0.984940144442805, 0.7735075693556874])


COMPANIES: dict[str, Callable[[ProbeSet], list[ProbeSet]]] = {
    "alone": lambda asked: [asked[number : number + 1] for number in range(len(asked))],
    "reversed": lambda asked: [asked[::-1]],
    "beside others": lambda asked: [asked[len(asked) // 2 :] + asked[: len(asked) // 2]],
    "fewer": lambda asked: [asked[1:5]],
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[int]]]:
    """The tokens of every sampled answer, by the probe's id."""
    seen: dict[str, list[list[int]]] = {}

    def kept(backend: Any, prompts: Any, sampling: Any, *, names: list[str], **options: Any) -> Any:
        found = sample(backend, prompts, sampling, names=names, **options)
        seen.update(zip(names, found, strict=True))
        return found

    monkeypatch.setattr("xlmech.leakage.task.sample", kept)
    return seen


def drawn(model: Any, asked: ProbeSet) -> pd.DataFrame:
    found = measure_leakage(model, asked, sampling=DRAWS, candidates=asked.records, progress=False)
    return found.probes.set_index("probe").extracted


@pytest.mark.parametrize("company", COMPANIES)
def test_a_probes_samples_are_the_same_in_any_order_and_company(
    company: str, model: Any, probes: ProbeSet, written: dict[str, list[list[int]]]
) -> None:
    asked = probes.filter(attributes=["id_number"])
    drawn(model, asked)
    whole = dict(written)
    assert len({str(answers) for answers in whole.values()}) == len(asked)
    written.clear()
    for part in COMPANIES[company](asked):
        drawn(model, part)
    assert written == {name: whole[name] for name in written} and written


def test_a_probes_samples_are_the_same_in_parts(
    model: Any, probes: ProbeSet, written: dict[str, list[list[int]]], tmp_path: Path
) -> None:
    whole = drawn(model, probes)
    tokens = dict(written)
    for size in (1, 3):
        written.clear()
        with resumable(tmp_path, shard_size=size):
            pd.testing.assert_series_equal(drawn(model, probes), whole)
        assert written == tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples must be at least 1 and seed not negative, got 0 and 0"),
        ({"seed": -1}, "got 20 and -1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
    ],
)
def test_bad_sampling(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
