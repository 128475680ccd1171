"""The engine against plain full-sequence loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlmech.engine.batching import mean_over_tokens, run_batched, run_forced
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_prompt


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


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    def work(tokens: torch.Tensor, indices: list[int]) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    with pytest.raises(RuntimeError, match="not even a single row fits the memory; use a smaller dtype or device"):
        run_batched([[1, 2]] * 3, work, batch_size=3)


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


def test_nan_is_named_with_its_layer(model: Any) -> None:
    backend = backend_of(model)

    def poison(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return value * float("nan")

    with (
        backend.hooks([(backend.hook_name("hook_resid_post", 0), poison)]),
        pytest.raises(ValueError, match="NaN or infinity at mlp.hook_post of layer 1 in a prompt; use a wider dtype"),
    ):
        run_forced(backend, [2, 7], [5], "mlp.hook_post")


def test_means_leave_out_special_tokens_in_front(model: Any) -> None:
    """At every other token, or at the last; several functions at once."""
    backend, texts, kept = backend_of(model), ["abc", "de", "fgh"], list[torch.Tensor]()
    name = backend.hook_name("mlp.hook_post", 1)
    with torch.no_grad(), backend.hooks([(name, lambda value, hook: kept.append(value[0].double()))]):
        for text in texts:
            backend.hidden(torch.tensor([encode_prompt(backend, text)]))
    rows = torch.cat([one[1:] for one in kept])
    assert len(rows) == len("".join(texts))
    mean = mean_over_tokens(backend, texts, "mlp.hook_post")
    assert mean.dtype == torch.float64 and mean.shape == (backend.n_layers, backend.d_mlp)
    torch.testing.assert_close(mean[1], rows.mean(0))
    last = mean_over_tokens(backend, texts, "mlp.hook_post", torch.abs, positions="last", batch_size=1)
    torch.testing.assert_close(last[1], torch.stack([one[-1] for one in kept]).abs().mean(0))
    both = mean_over_tokens(backend, texts, "mlp.hook_post", lambda value: torch.stack([value > 0, value.square()]))
    assert both.shape == (backend.n_layers, 2, backend.d_mlp)
    torch.testing.assert_close(both[1], torch.stack([(rows > 0).double().mean(0), rows.square().mean(0)]))


def test_a_mean_over_nothing(model: Any) -> None:
    backend = backend_of(model)
    for texts in ([], ["", ""]):
        with pytest.raises(ValueError, match=f"{len(texts)} texts without tokens to take a mean over"):
            mean_over_tokens(backend, texts, "mlp.hook_post")
    with pytest.raises(ValueError, match="prompt 1: .* tokens do not fit"):
        mean_over_tokens(backend, ["a", "a" * backend.n_ctx], "mlp.hook_post", what="prompt")
