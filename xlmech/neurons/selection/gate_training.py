"""The loop of training gates: batches, losses, steps, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from xlmech.execution.resume import current_plan
from xlmech.execution.shard import Event
from xlmech.neurons.selection.gate_losses import KINDS, GatedModel, Kind, Sample
from xlmech.neurons.selection.gate_state import GateState, GateStateFile
from xlmech.options import GateOptions
from xlmech.progress import progress_bar

STATE_EVERY = 20
"""Number of steps between states on disk, and between measurements of the facts held back."""
TASK = "gates"
"""Name of the training in the events of an execution plan, which count steps."""


class NoGatesError(ValueError):
    """This model allows no gates to be learned: it knows too few of the answers, or a loss is not finite."""


def train_gates(
    gated: GatedModel,
    samples: dict[Kind, list[Sample]],
    state: GateState,
    options: GateOptions,
    reduction_by: Callable[[torch.Tensor], float] | None,
    file: GateStateFile | None,
    progress: bool,
) -> None:
    """Do the steps that the state has not done yet, until the target reduction is reached.

    Inside a block of `resumable` or `on_ray`, each step is an event.
    """
    _tell("kept", len(state.history), options)
    sizes = {"private": options.private_batch, "public": options.public_batch, "kl": options.neutral_batch}
    left = range(len(state.history), options.steps)
    is_whole = True
    bar = progress_bar(left, "gates", shown=progress, total=options.steps, initial=len(state.history), leave=True)
    try:
        for step in bar:
            if state.reached(options.target_reduction):
                break
            started = time.perf_counter()
            numbers = {
                kind: drawn_numbers(state.losses[kind], sizes[kind], step, (options.seed, stream), options.hard_share)
                for stream, kind in enumerate(KINDS)
            }
            batch = [samples[kind][number] for kind in KINDS for number in numbers[kind]]
            losses, gradient = gated.losses(batch, state.weights)
            _check_finite(batch, losses, gradient, step)
            is_whole = False
            state.see(numbers, losses)
            row = {"step": step} | state.mean_losses()
            rate = options.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
            state.move(gradient, rate, options.pull)
            row |= {"n_touched": int((state.weights > 0).sum()), "reduction": math.nan}
            due = (step + 1) % STATE_EVERY == 0 or step + 1 == options.steps
            if due and reduction_by is not None:
                row["reduction"] = reduction_by(state.weights)
            state.record(row)
            is_whole = True
            shown = {name: f"{value:.3g}" for name, value in row.items() if name != "step" and value == value}
            bar.set_postfix(shown)
            _tell("shard", 1, options, time.perf_counter() - started, ", ".join(map(" ".join, shown.items())))
            if due and file is not None:
                file.write(state)
    except KeyboardInterrupt:
        if file is not None and state.history and is_whole:  # else a step was half done, and the last file is taken
            file.write(state)
        raise


def drawn_numbers(
    last: Float[torch.Tensor, " sample"], size: int, step: int, seed: tuple[int, ...], hard_share: float
) -> list[int]:
    """Number the samples of one step's batch: some in turn, the others (`hard_share`) drawn by their last losses.

    Answers that are suppressed or kept already have a small loss and hardly any slope, so a batch of them teaches little.

    Args:
        last: (sample,) loss when each was last run; NaN for those that were not yet run, which count as the largest.
        size: Number of samples.
        step: Number of the step.
        seed: Seed and stream of random numbers.
        hard_share: Share of the batch that is drawn by loss.
    """
    n_hard = int(min(size, len(last)) * hard_share)
    in_turn = batch_numbers(len(last), size - n_hard, step, seed)
    largest = max([1.0, *last.nan_to_num().tolist()])
    weights = last.double().nan_to_num(nan=largest).clamp_min(0)  # a rounded divergence may be below 0
    weights[in_turn] = 0
    generator = np.random.default_rng((*seed, step, n_hard))
    n_hard = min(n_hard, int((weights > 0).sum()))
    if not n_hard:
        return in_turn
    drawn = generator.choice(len(last), size=n_hard, replace=False, p=(weights / weights.sum()).numpy())
    return in_turn + [int(number) for number in drawn]


def batch_numbers(n_samples: int, size: int, step: int, seed: tuple[int, ...]) -> list[int]:
    """Number the samples of one step's batch: they come in random order, and all have come before one comes again."""
    places = range(step * min(size, n_samples), (step + 1) * min(size, n_samples))
    rounds = sorted({place // n_samples for place in places})
    orders = {number: np.random.default_rng((*seed, number)).permutation(n_samples) for number in rounds}
    return [int(orders[place // n_samples][place % n_samples]) for place in places]


def _tell(kind: str, n_steps: int, options: GateOptions, seconds: float = 0.0, text: str = "") -> None:
    """Tell the enclosing plan about steps that are done, if there is one."""
    plan = current_plan()
    if plan is not None and n_steps:
        plan.watch(Event(kind=kind, stage=TASK, n=n_steps, total=options.steps, seconds=seconds, text=text))


def _check_finite(batch: Sequence[Sample], losses: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
    """Raise NoGatesError if a loss is not finite, or the gradient."""
    *values, is_finite = torch.cat([losses, gradient.isfinite().all()[None].to(losses)]).tolist()
    wrong = next((item.id for item, value in zip(batch, values, strict=True) if not math.isfinite(value)), None)
    if wrong is not None or not is_finite:
        what = f"the loss of {wrong}" if wrong is not None else "the gradient"
        raise NoGatesError(
            f"step {step}: {what} is not finite; use precision='float32', a model in a wider dtype, or a lower learning_rate"
        )
