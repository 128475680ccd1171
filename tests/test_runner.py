"""The engine against plain full-sequence loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import D_VOCAB

from xlmech.backends import backend_of
from xlmech.probes import ProbeSet
from xlmech.runner import (
    answer_log_probs,
    encode_answer,
    encode_prompt,
    generate,
    run_batched,
    run_forced,
    sequence_nll,
)


def _full_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]), return_type="logits")[0]


def _plain_greedy(model: Any, prompt: list[int], n: int, stop: int | None) -> list[int]:
    written: list[int] = []
    for _ in range(n):
        token = int(_full_logits(model, [*prompt, *written])[-1].argmax())
        if token in (stop, model.tokenizer.eos_token_id):
            break
        written.append(token)
    return written


def test_generation_equals_the_uncached_unbatched_loop(model: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    prompts = [
        [2, *torch.randint(3, D_VOCAB, (length,), generator=generator).tolist()] for length in (3, 5, 3, 9, 5, 3)
    ]
    stop = _plain_greedy(model, prompts[0], 6, None)[2]
    wanted = [_plain_greedy(model, prompt, 6, stop) for prompt in prompts]
    assert len({len(tokens) for tokens in wanted}) > 1, (
        "some row must stop before others for this test to mean anything"
    )
    for batch_size in (1, 2, 32):
        assert generate(backend_of(model), prompts, max_new_tokens=6, stop_token=stop, batch_size=batch_size) == wanted


def test_generation_sees_hooks_at_every_step(model: Any) -> None:
    backend, prompt = backend_of(model), [2, 10, 20]
    name = backend.hook_name("mlp.hook_post", 0)
    lengths: list[int] = []
    with backend.hooks([(name, lambda value, hook: lengths.append(value.shape[1]))]):
        written = generate(backend, [prompt], max_new_tokens=4)
    assert len(written[0]) == 4
    assert lengths == [3, 1, 1, 1]


def test_answer_log_probs_equal_forced_full_sequences(model: Any) -> None:
    prompt, answers = [2, 7, 8, 9], [[5], [6, 7], [5, 9], [4, 4, 4, 250]]
    found = answer_log_probs(backend_of(model), prompt, answers, batch_size=2)
    for answer, scores in zip(answers, found, strict=True):
        logs = _full_logits(model, [*prompt, *answer]).log_softmax(-1)
        wanted = torch.stack([logs[len(prompt) - 1 + number, token] for number, token in enumerate(answer)])
        torch.testing.assert_close(scores, wanted, rtol=1e-7, atol=1e-7)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.lists(st.lists(st.integers(3, D_VOCAB - 1), min_size=2, max_size=20), min_size=1, max_size=6),
    batch_size=st.integers(1, 5),
)
def test_nll_equals_the_loop_whatever_the_batch_size(model: Any, sequences: list[list[int]], batch_size: int) -> None:
    totals, counts = sequence_nll(backend_of(model), sequences, batch_size=batch_size)
    for total, count, tokens in zip(totals, counts, sequences, strict=True):
        logs = _full_logits(model, tokens).log_softmax(-1)
        wanted = -sum(float(logs[place, token]) for place, token in enumerate(tokens[1:]))
        assert count == len(tokens) - 1
        assert float(total) == pytest.approx(wanted, rel=1e-7)


def test_batches_halve_on_out_of_memory_and_repeat_nothing() -> None:
    seen: list[int] = []
    sizes: list[int] = []

    def work(tokens: torch.Tensor, indices: list[int]) -> None:
        sizes.append(len(indices))
        if len(indices) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        seen.extend(indices)

    run_batched([[1, 2]] * 7, work, batch_size=7)
    assert sorted(seen) == list(range(7))
    assert sizes[:2] == [7, 3]


def test_other_errors_pass_through_batches() -> None:
    def work(tokens: torch.Tensor, indices: list[int]) -> None:
        raise ValueError("the caller's own error")

    with pytest.raises(ValueError, match="the caller's own error"):
        run_batched([[1]], work)


def test_batches_hold_equal_lengths_only() -> None:
    shapes: list[tuple[int, ...]] = []
    run_batched(
        [[1] * n for n in (3, 1, 2, 3, 1)], lambda tokens, indices: shapes.append(tuple(tokens.shape)), batch_size=4
    )
    assert shapes == [(2, 1), (1, 2), (2, 3)]


def test_encoding_refuses_what_does_not_fit(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    with pytest.raises(ValueError, match=r"probe x: \d+ tokens and 5 for the answer do not fit the model's context of"):
        encode_prompt(backend, "a" * (backend.n_ctx - 2), room=5, what="probe x")
    with pytest.raises(ValueError, match="answer: tokenises to nothing"):
        encode_answer(backend, "")
    assert encode_prompt(backend, probes[0].prompt)[0] == backend.tokenizer.bos_token_id
    assert backend.tokenizer.bos_token_id not in encode_answer(backend, "France")


def test_nan_is_named_with_its_layer(model: Any) -> None:
    backend = backend_of(model)

    def poison(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return value * float("nan")

    with (
        backend.hooks([(backend.hook_name("hook_resid_post", 0), poison)]),
        pytest.raises(ValueError, match="NaN or infinity at mlp.hook_post of layer 1 in a prompt; use a wider dtype"),
    ):
        run_forced(backend, [2, 7], [5], "mlp.hook_post")
