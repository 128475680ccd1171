"""Running prompts: batches of equal length, generation, forced answers, and how many rows fit the memory.

Prompts are batched by equal length, so that no padding is computed; only generation, whose steps are too small alone, joins
lengths, with padding masked. Interventions are in `xlmech.rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech.backends import Backend, KeyValues
from xlmech.readout import greedy_tokens, token_log_prob

BATCH_SIZE = 32
_SHARE_OF_FREE_MEMORY = 0.4
_ROWS_PER_WALK = 1024


def encode_prompt(backend: Backend, prompt: str, *, room: int = 0, what: str = "prompt") -> list[int]:
    """Token ids of a prompt, with the special tokens that the tokenizer puts in front.

    Raises:
        ValueError: It has no tokens, or leaves no room for `room` more in the model's context.
    """
    tokens = list(backend.tokenizer(prompt).input_ids)
    if tokens and tokens[-1] == backend.tokenizer.eos_token_id:
        tokens.pop()
    if not tokens:
        raise ValueError(f"{what}: tokenises to nothing")
    if len(tokens) + room > backend.n_ctx:
        raise ValueError(
            f"{what}: {len(tokens)} tokens and {room} for the answer do not fit the model's context of {backend.n_ctx}; "
            "shorten it"
        )
    return tokens


def encode_answer(backend: Backend, answer: str, *, what: str = "answer") -> list[int]:
    """Token ids of an answer as it continues a prompt.

    Raises:
        ValueError: It has no tokens.
    """
    tokens = list(backend.tokenizer(answer, add_special_tokens=False).input_ids)
    if not tokens:
        raise ValueError(f"{what}: tokenises to nothing; the model's tokenizer cannot write it")
    return tokens


def run_batched(
    sequences: Sequence[Sequence[int]],
    function: Callable[[torch.Tensor, list[int]], None],
    *,
    batch_size: int = BATCH_SIZE,
    progress: str = "",
) -> None:
    """Call `function(tokens, indices)` for batches of equally long sequences, every sequence once.

    The batch size is halved on out-of-memory; what is done is not repeated.

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

    drain(len(sequences), work, key=lambda index: len(sequences[index]), batch_size=batch_size, progress=progress)


def drain(
    n_items: int,
    work: Callable[[list[int]], None],
    *,
    key: Callable[[int], Any],
    batch_size: int,
    apart: bool = True,
    progress: str = "",
) -> None:
    """Do `work` on batches of all items, every item once; on out-of-memory the batch is halved and tried again.

    Args:
        n_items: Items 0 to n_items - 1.
        work: Takes the items of one batch.
        key: Items are taken in its order.
        batch_size: Items at a time, at first.
        apart: Whether items of different keys never share a batch.
        progress: Label of a progress bar; none without.

    Raises:
        RuntimeError: Not even one item fits the memory.
    """
    pending, size = sorted(range(n_items), key=key), max(1, min(batch_size, n_items))
    with tqdm(total=n_items, desc=progress, disable=not progress, leave=False) as bar:
        while pending:
            indices = [index for index in pending[:size] if not apart or key(index) == key(pending[0])]
            try:
                work(indices)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(indices) == 1:
                    raise RuntimeError("not even a single row fits the memory; use a smaller dtype or device") from error
                size = len(indices) // 2
            else:
                del pending[: len(indices)]
                bar.update(len(indices))
                continue
            clear_device_cache(garbage_collection=True)  # outside the handler, whose traceback holds the batch


def rows_that_fit(backend: Backend, n_positions: int, n_seen: int = 0, *, gradient: bool = False) -> int:
    """How many rows to try at first: an estimate from the free memory and the activations that a row keeps.

    Args:
        backend: The model.
        n_positions: Positions that are run per row.
        n_seen: Positions before them, whose keys and values each row copies in the layer that runs.
        gradient: Whether all layers' activations are kept.
    """
    width = 12 * backend.d_model + 6 * backend.d_mlp  # norms, attention and MLP
    layers = backend.n_layers if gradient else 2
    numbers = n_positions * width * layers + n_seen * 4 * backend.d_model
    return max(
        1, int(_SHARE_OF_FREE_MEMORY * _free_memory(backend.device) / (numbers * backend.unembed.element_size()))
    )


def _free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


@torch.no_grad()
def generate(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token: int | None = None,
    batch_size: int = 4 * BATCH_SIZE,
    progress: str = "",
) -> list[list[int]]:
    """Greedy continuations, with a key/value cache; rows that are done leave the batch.

    Args:
        backend: The model; hooks that are on it stay active at every step.
        prompts: Token ids.
        max_new_tokens: Longest continuation.
        stop_token: Ends a continuation, and is not part of it; the end-of-text token always does.
        batch_size: Rows at a time, at first.
        progress: Label of a progress bar; none without.

    Returns:
        New tokens per prompt, in the prompts' order.
    """
    stops = {token for token in (stop_token, backend.tokenizer.eos_token_id) if token is not None}
    done: list[list[int]] = [[] for _ in prompts]

    def extend(indices: list[int]) -> None:
        for index, tokens in zip(
            indices, _extend(backend, [prompts[i] for i in indices], max_new_tokens, stops), strict=True
        ):
            done[index] = tokens

    drain(
        len(prompts),
        extend,
        key=lambda index: len(prompts[index]),
        apart=False,
        batch_size=batch_size,
        progress=progress,
    )
    return done


def _extend(
    backend: Backend, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: set[int]
) -> list[list[int]]:
    """Greedy continuations of prompts sorted by length: run by equal length, then extended together, padded on the left."""
    hidden, parts = [], []
    for _, group in groupby(prompts, key=len):
        states, past = backend.hidden(torch.tensor([list(prompt) for prompt in group]))
        hidden.append(states[:, -1])
        parts.append(past)
    past, last = (KeyValues.join(parts) if len(parts) > 1 else parts[0]), torch.cat(hidden)
    rows, written = list(range(len(prompts))), [list[int]() for _ in prompts]
    for step in range(max_new_tokens):
        chosen = greedy_tokens(last, backend.unembed, bias=backend.unembed_bias).tolist()
        alive = [number for number, token in enumerate(chosen) if token not in stops]
        for number in alive:
            written[rows[number]].append(chosen[number])
        if not alive or step + 1 == max_new_tokens:
            break
        if len(alive) < len(rows):
            past = past.select(torch.tensor(alive, device=backend.device))
        rows = [rows[number] for number in alive]
        states, past = backend.hidden(torch.tensor([[chosen[number]] for number in alive]), past)
        last = states[:, -1]
    return written


@torch.no_grad()
def answer_log_probs(
    backend: Backend,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int = 4 * BATCH_SIZE,
) -> list[torch.Tensor]:
    """Log-probability of every token of every answer, given one prompt that is run once.

    Returns:
        (answer token,) nats, per answer.
    """
    hidden, past = backend.hidden(torch.tensor([list(prompt)]))
    last, results = hidden[:, -1], [torch.empty(0)] * len(answers)
    firsts = torch.tensor([answer[0] for answer in answers], device=backend.device)
    first_log_probs = token_log_prob(last.expand(len(answers), -1), backend.unembed, firsts, **backend.readout).cpu()

    def score(tokens: torch.Tensor, indices: list[int]) -> None:
        rest = first_log_probs[indices][:, None]
        if tokens.shape[1] > 1:
            states, _ = backend.hidden(tokens[:, :-1], past.repeat(len(indices)))
            targets = tokens[:, 1:].flatten().to(backend.device)
            scores = token_log_prob(states.flatten(0, 1), backend.unembed, targets, **backend.readout).cpu()
            rest = torch.cat([rest, scores.view(len(indices), -1)], dim=1)
        for row, index in enumerate(indices):
            results[index] = rest[row]

    run_batched(answers, score, batch_size=batch_size)
    return results


@torch.no_grad()
def sequence_nll(
    backend: Backend, sequences: Sequence[Sequence[int]], *, batch_size: int = BATCH_SIZE, progress: str = ""
) -> tuple[Float[torch.Tensor, " sequence"], list[int]]:
    """Negative log-likelihood (nats, summed over the tokens after the first) and number of tokens of each text."""
    states: list[torch.Tensor] = [torch.empty(0)] * len(sequences)

    def run(tokens: torch.Tensor, indices: list[int]) -> None:
        hidden, _ = backend.hidden(tokens)
        for row, index in enumerate(indices):
            states[index] = hidden[row, :-1]

    run_batched(sequences, run, batch_size=batch_size, progress=progress)
    counts = [len(sequence) - 1 for sequence in sequences]
    targets = torch.tensor([token for sequence in sequences for token in sequence[1:]], device=backend.device)
    # Few texts are equally long, but their tokens can share one walk through the vocabulary.
    scores = [
        token_log_prob(rows, backend.unembed, wanted, **backend.readout).double()
        for rows, wanted in zip(
            torch.split(torch.cat(states), _ROWS_PER_WALK), torch.split(targets, _ROWS_PER_WALK), strict=True
        )
    ]
    return -torch.stack([part.sum() for part in torch.split(torch.cat(scores), counts)]).cpu(), counts


# Activations and interventions


class Recorder:
    """Hook functions that keep what passes a hook point at every layer.

    `hooks(component)` gives (name, function) pairs for `Backend.hooks`; `kept[layer]` is what passed last.
    """

    def __init__(self, backend: Backend, component: str) -> None:
        self.kept: list[torch.Tensor] = [torch.empty(0)] * backend.n_layers
        self.names = [backend.hook_name(component, layer) for layer in range(backend.n_layers)]

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """One recording hook per layer."""
        return [(name, self._keep(layer)) for layer, name in enumerate(self.names)]

    def _keep(self, layer: int) -> Callable[..., None]:
        def keep(value: torch.Tensor, hook: Any) -> None:  # noqa: ARG001 (TransformerLens passes it by name)
            self.kept[layer] = value

        return keep


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
        """Positions that predict the answer's tokens, each the one after it."""
        return range(self.n_prompt - 1, len(self.tokens) - 1)


@torch.no_grad()
def run_forced(
    backend: Backend, prompt: Sequence[int], answer: Sequence[int], component: str, *, what: str = "a prompt"
) -> Forced:
    """Run a prompt with its answer forced, and keep one hook point's activations and all keys and values.

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
