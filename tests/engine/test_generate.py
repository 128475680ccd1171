"""Generation, forced answers and plain text against plain full-sequence loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_models import D_VOCAB
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlmech.engine.generate import first_line, generate, run_prompts
from xlmech.engine.score import answer_log_probs, log_probs_of_tails, sequence_nll
from xlmech.models.backends import backend_of


def _full_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]), return_type="logits")[0]


def _plain_log_prob(model: Any, prompt: list[int], answer: list[int]) -> float:
    logs = _full_logits(model, [*prompt, *answer]).log_softmax(-1)
    return sum(float(logs[len(prompt) - 1 + number, token]) for number, token in enumerate(answer))


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
        assert (
            generate(backend_of(model), prompts, max_new_tokens=6, end_tokens=[stop], batch_size=batch_size) == wanted
        )


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("newline", ["\n", "\n\n", ".\n", " \r\n", "\nand"])
def test_a_line_ends_an_answer_once_something_was_written(
    model: Any, monkeypatch: pytest.MonkeyPatch, place: int, newline: str
) -> None:
    """Whatever tokens hold newlines: the tokens' texts are replaced, and the plain loop looks at the whole text alone."""
    prompts = [[2, 9 + number, 20, 7] for number in range(6)]
    whole = [_plain_greedy(model, prompt, 8, None) for prompt in prompts]
    blank, ending = whole[0][0], whole[0][place]
    texts = {blank: "  "} | {ending: newline}
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda _, ids, **__: "".join(texts.get(i, "w") for i in ids))
    wanted = []
    for tokens in whole:
        lines = ["".join(texts.get(token, "w") for token in tokens[: n + 1]).lstrip() for n in range(len(tokens))]
        ends = next((n for n, text in enumerate(lines) if "\n" in text), len(tokens))
        text = "".join(texts.get(token, "w") for token in tokens[: ends + 1])
        start = len(text) - len(text.lstrip())
        wanted.append(text[: text.find("\n", start)] if "\n" in text[start:] else text)
    found = generate(backend_of(model), prompts, max_new_tokens=8, lines_end_answers=True)
    assert [first_line(model.tokenizer.decode(tokens)).rstrip(" \r") for tokens in found] == [
        text.rstrip(" \r") for text in wanted
    ]
    assert all(whole[row][: len(tokens)] == tokens for row, tokens in enumerate(found))
    assert generate(backend_of(model), prompts, max_new_tokens=8) == whole, "lines end no answer unless it is said"


def test_the_first_line_is_the_first_with_something_in_it() -> None:
    lines = {"\n \n a b\nc": "\n \n a b", "a": "a", "": "", "\n\n": "\n\n", "a\n": "a", "é\r\nb": "é\r"}
    assert {text: first_line(text) for text in lines} == lines


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
    (found,) = answer_log_probs(backend_of(model), [prompt], [answers], batch_size=2)
    wanted = [_plain_log_prob(model, prompt, answer) for answer in answers]
    assert found.tolist() == pytest.approx(wanted, rel=1e-7)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), batch_size=st.integers(1, 9), n_prompts=st.integers(1, 4), n_wanted=st.integers(1, 2))
def test_answers_that_cannot_win_keep_the_ranks_of_the_others(
    model: Any, data: st.DataObject, batch_size: int, n_prompts: int, n_wanted: int
) -> None:
    some = st.lists(st.integers(3, D_VOCAB - 1), min_size=1, max_size=4)
    prompts = [[2, *data.draw(some)] for _ in range(n_prompts)]
    answers = [data.draw(st.lists(some, min_size=3, max_size=5)) for _ in range(n_prompts)]
    found = answer_log_probs(backend_of(model), prompts, answers, wanted=[n_wanted] * n_prompts, batch_size=batch_size)
    for prompt, of_prompt, scores in zip(prompts, answers, found, strict=True):
        wanted = [_plain_log_prob(model, prompt, answer) for answer in of_prompt]
        assert scores[:n_wanted].tolist() == pytest.approx(wanted[:n_wanted], rel=1e-7)
        best = max(wanted[:n_wanted])
        for score, exact in zip(scores.tolist()[n_wanted:], wanted[n_wanted:], strict=True):
            assert score >= exact - 1e-7
            assert (score > best + 1e-7) == (exact > best + 1e-7)


def test_what_prompts_begin_with_is_run_once(model: Any) -> None:
    backend, generator = backend_of(model), torch.Generator().manual_seed(5)
    common = [2, *torch.randint(3, D_VOCAB, (9,), generator=generator).tolist()]
    prompts = [[*common, 3 + number, 4] for number in range(12)]
    lengths: list[tuple[int, int]] = []
    with backend.hooks([(backend.hook_name("mlp.hook_post", 0), lambda value, hook: lengths.append(value.shape[:2]))]):
        hidden, past = run_prompts(backend, prompts)
    assert [tuple(shape) for shape in lengths] == [(1, 10), (12, 2)]
    for row, prompt in enumerate(prompts):
        alone, alone_past = backend.hidden(torch.tensor([prompt]))
        torch.testing.assert_close(hidden[row], alone[0, -1], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(past.keys[1][row], alone_past.keys[1][0], rtol=1e-7, atol=1e-9)
    hidden, _ = run_prompts(backend, [common] * 20)
    torch.testing.assert_close(hidden[19], backend.hidden(torch.tensor([common]))[0][0, -1], rtol=1e-7, atol=1e-9)


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


def test_tails_are_scored_as_answers_after_prompts(model: Any) -> None:
    """In one batch, filled up at the end, as by the loop over prompts of one length."""
    prompts = [[2, *range(5, 5 + length)] for length in (3, 9, 4, 9)]
    answers = [[7], [8, 9, 10], [11, 12], [13, 14, 15, 16, 17]]
    sequences = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    found = log_probs_of_tails(backend_of(model), sequences, answers, batch_size=3)
    wanted = answer_log_probs(backend_of(model), prompts, [[answer] for answer in answers])
    assert found.tolist() == pytest.approx([float(score) for (score,) in wanted], rel=1e-7)
