"""Compute shards in an actor of `xlmech.execution.ray_pool`, which loads the model as the caller did."""

from __future__ import annotations

import socket
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from xlmech.engine.ablation_state import ASKED_LANGUAGE, ActiveAblation, n_foreign_hooks
from xlmech.execution.shard import Shard, ShardedTask, compute_shard
from xlmech.execution.store import ShardError, ShardStore
from xlmech.models.backends import Backend, backend_of
from xlmech.storage.fingerprint import weights_fingerprint


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How an actor loads the caller's model.

    Attributes:
        recipe: Keyword arguments of `load_model`.
        plant_language: Training language of the model.
        weights: Fingerprint that the loaded weights must have.
        threads: Threads of torch.
    """

    recipe: dict[str, Any]
    plant_language: str
    weights: str
    threads: int

    @classmethod
    def of(cls, backend: Backend, threads: int) -> ModelSpec:
        """Make the spec of a model that `load_model` made.

        Raises:
            ValueError: The model was made from an object in memory, or has hooks that `ablate` did not add.
        """
        source = getattr(backend.model, "xlmech_source", None)
        if source is None or source.recipe is None:
            raise ValueError(
                "actors load the model themselves, and this one was made from an object in memory: save it with "
                "save_pretrained, and load_model that folder"
            )
        if n_hooks := n_foreign_hooks(backend.model):
            raise ValueError(
                f"{n_hooks} hooks of your own are on the model, and actors cannot have them; remove them, or use `ablate`"
            )
        weights = weights_fingerprint(backend.model)
        return cls(recipe=dict(source.recipe), plant_language=source.plant_language, weights=weights, threads=threads)


class Worker:
    """Process that holds the model."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        from xlmech.models.load import load_model

        torch.set_num_threads(spec.threads)
        recipe = dict(spec.recipe)
        self.model = load_model(recipe.pop("source"), **recipe)
        self.model.xlmech_source = replace(self.model.xlmech_source, plant_language=spec.plant_language)
        self.backend = backend_of(self.model)
        weights = weights_fingerprint(self.model)
        self.mismatch = "" if weights == spec.weights else f"{recipe} has other weights on {socket.gethostname()}"
        self.task: tuple[str, Any] = ("", None)

    def ready(self) -> str:
        """Return why this process cannot compute shards, "" if it can."""
        return self.mismatch

    def run(
        self,
        task: list[Any],
        key: str,
        url: str,
        shard: Shard,
        ablations: tuple[ActiveAblation, ...],
        asked_language: str | None,
    ) -> tuple[str, Any]:
        """Return ("done", FinishedShard without its items), or ("error", exception) if a retry would not help."""
        import ray

        if self.task[0] != key:
            self.task = (key, ray.get(task[0]))
        sharded = ShardedTask(backend=self.backend, task=self.task[1], key=key, store=ShardStore(url))
        try:
            with ExitStack() as stack, warnings.catch_warnings(), ASKED_LANGUAGE.holding(asked_language):
                warnings.simplefilter("ignore")  # the caller has been warned
                for ablation in ablations:
                    stack.enter_context(ablation.apply(self.model))
                finished = compute_shard(sharded, shard)
        except ShardError as error:
            return "error", ShardError(str(error))
        except Exception as error:  # it goes to the caller, who raises it
            return "error", error
        return "done", replace(finished, shard=replace(shard, items=()))
