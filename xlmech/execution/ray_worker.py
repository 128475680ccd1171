"""What runs in an actor of `xlmech.execution.ray_pool`: a model that is made as the caller's was, and one part at a time."""

from __future__ import annotations

import socket
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from xlmech.execution.shard import Unit, compute
from xlmech.execution.store import PieceError, PieceStore
from xlmech.models.ablation_state import ASKED, ActiveAblation, own_hooks
from xlmech.models.backends import backend_of
from xlmech.storage.fingerprint import weights_fingerprint


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How an actor makes the model that the caller has.

    Attributes:
        recipe: Keyword arguments of `load_model`.
        plant_language: Of the records in the training data.
        weights: Fingerprint that the loaded weights must have.
        threads: Of torch.
    """

    recipe: dict[str, Any]
    plant_language: str
    weights: str
    threads: int

    @classmethod
    def of(cls, model: Any, threads: int) -> ModelSpec:
        """The spec of a model that `load_model` made.

        Raises:
            ValueError: It was made from an object in memory, or has hooks that `ablate` did not put there.
        """
        network = backend_of(model).model
        source = getattr(network, "xlmech_source", None)
        if source is None or source.recipe is None:
            raise ValueError(
                "actors load the model themselves, and this one was made from an object in memory: save it with "
                "save_pretrained, and load_model that folder"
            )
        if there := own_hooks(network):
            raise ValueError(
                f"{there} hooks of your own are on the model, and actors cannot have them; remove them, or use `ablate`"
            )
        weights = weights_fingerprint(network)
        return cls(recipe=dict(source.recipe), plant_language=source.plant_language, weights=weights, threads=threads)


class Worker:
    """The process that holds the model."""

    def __init__(self, spec: ModelSpec) -> None:
        import torch

        from xlmech.models.load import load_model

        torch.set_num_threads(spec.threads)
        recipe = dict(spec.recipe)
        self.model = load_model(recipe.pop("source"), **recipe)
        self.model.xlmech_source = replace(self.model.xlmech_source, plant_language=spec.plant_language)
        found = weights_fingerprint(backend_of(self.model).model)
        self.wrong = "" if found == spec.weights else f"{recipe} has other weights on {socket.gethostname()}"
        self.task: tuple[str, Any] = ("", None)

    def ready(self) -> str:
        """Why this process cannot take part, "" where it can."""
        return self.wrong

    def run(
        self, task: list[Any], key: str, url: str, unit: Unit, off: tuple[ActiveAblation, ...], asked: str | None
    ) -> tuple[str, Any]:
        """("done", Finished without its items), or ("error", the exception) for what no other try would mend."""
        import ray

        if self.task[0] != key:
            self.task = (key, ray.get(task[0]))
        try:
            with ExitStack() as stack, warnings.catch_warnings(), ASKED.holding(asked):
                warnings.simplefilter("ignore")  # the caller has been warned
                for one in off:
                    stack.enter_context(one.apply(self.model))
                found = compute(self.model, self.task[1], PieceStore(url), key, unit)
        except PieceError as error:
            return "error", PieceError(str(error))
        except Exception as error:  # it goes to the caller, who raises it
            return "error", error
        return "done", replace(found, unit=replace(unit, items=()))
