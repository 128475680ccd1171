"""Blocks that are left in another order than they were entered, by an error, in a thread, or never: each ends by itself."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xlmech.engine.ablation_state import ASKED_LANGUAGE, active_ablations
from xlmech.execution.ray_pool import RayPool
from xlmech.execution.resume import current_plan, resumable
from xlmech.models.backends import backend_of
from xlmech.models.load import model_name
from xlmech.models.sequence_positions import follow_positions
from xlmech.neurons.ablation import ablate, asking
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.scopes import OpenBlocks

MODES = {
    "zero": lambda shape: {},
    "noise": lambda shape: {"mode": "noise", "values": torch.zeros(shape), "std": 1.0, "positions": slice(1, None)},
}


def chosen(model: Any, *neurons: tuple[int, int]) -> NeuronSet:
    backend = backend_of(model)
    return NeuronSet(frozenset(neurons), backend.n_layers, backend.d_mlp, model_name(model))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[2, 7, 8, 9, 11]]), return_type="logits")


@pytest.mark.parametrize("mode", MODES)
def test_ablations_end_by_themselves_in_any_order(model: Any, mode: str) -> None:
    backend = backend_of(model)
    how = MODES[mode]((backend.n_layers, backend.d_mlp))
    plain, one, two = logits(model), chosen(model, (0, 1), (1, 2)), chosen(model, (1, 5))
    with ablate(model, two, **how):
        only_two = logits(model)
    assert not torch.equal(only_two, plain)
    first, second = ablate(model, one, **how), ablate(model, two, **how)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [list(found.sets.values()) for found in active_ablations(backend.model)] == [[two]]
    assert torch.equal(logits(model), only_two)
    second.__exit__(None, None, None)
    assert active_ablations(backend.model) == ()
    assert torch.equal(logits(model), plain)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def asked_in(code: str, _: Path) -> AbstractContextManager[Any]:
    return asking(code)


def kept_in(code: str, folder: Path) -> AbstractContextManager[Any]:
    return resumable(folder / code)


def plan_folder() -> str | None:
    plan = current_plan()
    return None if plan is None else Path(plan.store.url).name


@pytest.mark.parametrize(("block", "now"), [(asked_in, ASKED_LANGUAGE.get), (kept_in, plan_folder)])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_values_end_by_themselves_in_any_order(
    block: Callable[..., Any], now: Callable[[], Any], error: type[BaseException] | None, tmp_path: Path
) -> None:
    first, second = block("fr", tmp_path), block("es", tmp_path)
    first.__enter__()
    second.__enter__()
    assert not first.__exit__(error, error() if error else None, None)
    assert now() == "es"
    second.__exit__(None, None, None)
    assert now() is None


def test_a_generator_that_is_left_unfinished_takes_its_value_back() -> None:
    def half() -> Iterator[None]:
        with asking("fr"):
            yield

    running = half()
    next(running)
    with asking("es"):
        assert ASKED_LANGUAGE.get() == "es"
        thread = threading.Thread(target=running.close)  # as when garbage is collected in a thread
        thread.start()
        thread.join()
        assert ASKED_LANGUAGE.get() == "es"
    del running
    gc.collect()
    assert ASKED_LANGUAGE.get() is None


def test_none_can_hold_inside_a_value() -> None:
    blocks: OpenBlocks[int | None] = OpenBlocks("test")
    with blocks.holding(1), blocks.holding(None):
        assert blocks.get() is None


class Hooked(torch.nn.Module):
    """What `follow_positions` sees of a HookedTransformer."""

    def forward(self, tokens: torch.Tensor, places: list[Any]) -> list[Any]:
        return [place.of(tokens).tolist() for place in places]


def test_following_a_hooked_transformer_ends_in_any_order() -> None:
    network = Hooked()
    backend: Any = SimpleNamespace(name="hooked", model=network)
    first, second = follow_positions(backend), follow_positions(backend)
    one, two = first.__enter__(), second.__enter__()
    tokens = torch.zeros(1, 3)
    assert network.forward(tokens, [one, two]) == [[[0, 1, 2]]] * 2
    first.__exit__(None, None, None)
    assert network.forward(tokens, [two]) == [[[0, 1, 2]]]
    with pytest.raises(RuntimeError, match="outside of a forward pass"):
        network.forward(tokens, [one])
    second.__exit__(None, None, None)
    assert "forward" not in vars(network)


def test_work_given_to_a_block_of_ray_that_has_ended_is_refused() -> None:
    pool = RayPool(actors=1, num_cpus=1, num_gpus=0, threads=1)
    pool.close()
    sharded: Any = None
    with pytest.raises(RuntimeError, match="has ended"):
        next(iter(pool(sharded, [])))
