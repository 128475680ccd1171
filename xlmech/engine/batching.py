"""Run prompts in batches of equal length, record hook points, and estimate how many rows fit the memory.

Prompts are batched by equal length, so that no padding is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from xlmech.models.backends import Backend
from xlmech.models.kv_cache import KeyValues
from xlmech.models.load import free_memory
from xlmech.models.tokens import encode_prompt, n_special
from xlmech.progress import progress_bar

Where = Literal["all", "last"]
BATCH_SIZE = 32
_SHARE_OF_FREE_MEMORY = 0.4


def run_batched(
    sequences: Sequence[Sequence[int]],
    function: Callable[[torch.Tensor, list[int]], None],
    *,
    batch_size: int = BATCH_SIZE,
    progress: str = "",
) -> None:
    """Call `function(tokens, indices)` for batches of equally long sequences, every sequence once.

    The batch size is halved on out-of-memory; finished batches are not repeated.

    Args:
        sequences: Token ids.
        function: Takes (row, position) tokens and the rows' indices in `sequences`.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.

    Raises:
        RuntimeError: Not even one row fits the memory.
    """

    def work(indices: list[int]) -> None:
        function(torch.tensor([list(sequences[index]) for index in indices]), indices)

    def length(index: int) -> int:
        return len(sequences[index])

    run_in_batches(len(sequences), work, key=length, group=length, batch_size=batch_size, progress=progress)


def run_in_batches(
    n_items: int,
    work: Callable[[list[int]], None],
    *,
    key: Callable[[int], Any],
    batch_size: int,
    group: Callable[[int], Any] = lambda _: None,
    progress: str = "",
) -> None:
    """Do `work` on batches of all items, every item once; on out-of-memory the batch is halved and tried again.

    Args:
        n_items: Items 0 to n_items - 1.
        work: Takes the items of one batch.
        key: Items are taken in its order.
        batch_size: Items at a time, at first.
        group: Items of different groups never share a batch; those of one group must follow each other in the order of `key`.
        progress: Label of a progress bar; none without.

    Raises:
        RuntimeError: Not even one item fits the memory.
    """
    pending, size = sorted(range(n_items), key=key), max(1, min(batch_size, n_items))
    with progress_bar(label=progress, shown=bool(progress), total=n_items) as bar:
        while pending:
            indices = [index for index in pending[:size] if group(index) == group(pending[0])]
            try:
                work(indices)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(indices) == 1:
                    raise RuntimeError(
                        "not even a single row fits the memory; use a smaller dtype or device"
                    ) from error
                size = len(indices) // 2
            else:
                del pending[: len(indices)]
                bar.update(len(indices))
                continue
            clear_device_cache(garbage_collection=True)  # outside the handler, whose traceback holds the batch


def rows_that_fit(backend: Backend, n_positions: int, n_seen: int = 0, *, gradient: bool = False) -> int:
    """Estimate how many rows fit the free memory, by the activations that a row keeps.

    Args:
        backend: The model.
        n_positions: Positions that are run per row.
        n_seen: Positions before them, whose keys and values each row copies in the layer that runs.
        gradient: Whether all layers' activations are kept.
    """
    width = 12 * backend.d_model + 6 * backend.d_mlp  # norms, attention and MLP
    layers = backend.n_layers if gradient else 2
    numbers = n_positions * width * layers + n_seen * 4 * backend.d_model
    return max(1, int(_SHARE_OF_FREE_MEMORY * free_memory(backend.device) / (numbers * backend.unembed.element_size())))


class Recorder:
    """Record the activation at a hook point of every layer.

    `hooks()` returns (name, function) pairs for `Backend.hooks`; `kept[layer]` is the last activation.
    """

    def __init__(self, backend: Backend, component: str) -> None:
        self.kept: list[torch.Tensor] = [torch.empty(0)] * backend.n_layers
        self._device = backend.device
        self.names = [backend.hook_name(component, layer) for layer in range(backend.n_layers)]

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """Return one recording hook per layer."""
        return [(name, self._keep(layer)) for layer, name in enumerate(self.names)]

    def _keep(self, layer: int) -> Callable[..., None]:
        def keep(value: torch.Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            self.kept[layer] = value.to(self._device)  # layers may be spread over devices

        return keep


@torch.no_grad()
def mean_over_tokens(
    backend: Backend,
    texts: Sequence[str],
    component: str,
    function: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
    *,
    positions: Where = "all",
    batch_size: int = BATCH_SIZE,
    progress: str = "",
    what: str = "text",
) -> torch.Tensor:
    """Average a function of the activation at a hook point over the texts' tokens: (layer, ..., width), float64, on the CPU.

    Args:
        backend: The model; active hooks apply.
        texts: One or more.
        component: The hook point.
        function: Of a (row, position, width) activation in float64, entry by entry; its result may have further leading
            dimensions, to take several means at once.
        positions: `all` of each text but the special tokens in front, or its `last`.
        batch_size: Texts at a time, at first.
        progress: Label of a progress bar; none without.
        what: Name of a text in errors.

    Raises:
        ValueError: A text that the model cannot take (names its number), or no tokens but special ones.
    """
    first = n_special(backend)
    sequences = [encode_prompt(backend, text, what=f"{what} {number}") for number, text in enumerate(texts)]
    n_tokens = len(sequences) if positions == "last" else sum(len(sequence) - first for sequence in sequences)
    if not n_tokens:
        raise ValueError(
            f"{len(sequences)} texts without tokens to take a mean over (special tokens in front do not count)"
        )
    recorder, total = Recorder(backend, component), torch.zeros((), dtype=torch.float64)
    chosen = slice(-1, None) if positions == "last" else slice(first, None)

    def add(tokens: torch.Tensor, _: list[int]) -> None:
        nonlocal total
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        parts = [function(kept[:, chosen].double()).double().sum((-3, -2)) for kept in recorder.kept]
        total = total + torch.stack(parts).cpu()

    run_batched(sequences, add, batch_size=batch_size, progress=progress)
    return total / n_tokens


@dataclass(frozen=True, kw_only=True)
class Forced:
    """One prompt and answer, run once with the answer forced.

    Attributes:
        tokens: (position,) prompt and answer.
        n_prompt: Tokens of the prompt.
        past: Keys and values of all positions.
        activations: (layer, position, width) of the recorded hook point.
    """

    tokens: torch.Tensor
    n_prompt: int
    past: KeyValues
    activations: torch.Tensor

    @property
    def predicting(self) -> range:
        """Return the positions that predict the answer's tokens, each the next one."""
        return range(self.n_prompt - 1, len(self.tokens) - 1)


@torch.no_grad()
def run_forced(
    backend: Backend, prompt: Sequence[int], answer: Sequence[int], component: str, *, what: str = "a prompt"
) -> Forced:
    """Run a prompt with its answer forced, and record one hook point's activations and all keys and values.

    Raises:
        ValueError: NaN or infinity in an activation (names the layer and `what` was run).
    """
    recorder, tokens = Recorder(backend, component), torch.tensor([*prompt, *answer])
    with backend.hooks(recorder.hooks()):
        _, past = backend.hidden(tokens[None])
    activations = torch.stack([kept[0] for kept in recorder.kept])
    finite = activations.isfinite().flatten(1).all(1)
    if not finite.all():
        layer = int((~finite).nonzero()[0])
        raise ValueError(f"NaN or infinity at {component} of layer {layer} in {what}; use a wider dtype")
    return Forced(tokens=tokens, n_prompt=len(prompt), past=past, activations=activations)
