"""Which switches to throw: the best set near another one, as far as slopes tell. Runs no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

_SOLVER_STEPS = 200
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of the loss, and what its rows came to when last measured.

    Attributes:
        loss: Takes (row,) values, and those of the untouched model, to what they cost.
        start: (row,) values of the untouched model.
        values: (row,) values with the present set off.
        slopes: (row, unit) their derivative by each switch, where the switches stand.
    """

    loss: Loss
    start: Float[torch.Tensor, " row"]
    values: Float[torch.Tensor, " row"]
    slopes: Float[torch.Tensor, "row unit"]

    @property
    def cost(self) -> float:
        """Of the values as measured."""
        return float(self.loss(self.values, self.start))

    def gradient(self, moved: Float[torch.Tensor, " unit"]) -> Float[torch.Tensor, " unit"]:
        """Of the cost by the switches, once these have moved, if the slopes hold so far."""
        values = (self.values + self.slopes @ moved).requires_grad_()
        with torch.enable_grad():
            (by_value,) = torch.autograd.grad(self.loss(values, self.start), values)
        return by_value @ self.slopes

    def missed(
        self, moved: Float[torch.Tensor, " unit"], values: Float[torch.Tensor, " row"]
    ) -> Float[torch.Tensor, "row unit"]:
        """What to add to the slopes so that they lead to `values` where the switches have `moved`, shared by those that have."""
        return torch.outer(values - self.values - self.slopes @ moved, moved / moved.square().sum())

    def bent(self, by: Float[torch.Tensor, "row unit"]) -> Term:
        """The same term with other slopes."""
        return dataclasses.replace(self, slopes=self.slopes + by)


def best_set(
    terms: Sequence[Term], off: Float[torch.Tensor, " unit"], *, count: int, step: int
) -> Float[torch.Tensor, " unit"]:
    """The set that costs least if the terms' slopes hold, at most `step` switches from `off` and of at most `count` units.

    Frank and Wolfe's method on switches between 0 and 1: every iteration moves towards the allowed set that lowers the cost most
    at first order. At the end the switches that have moved furthest are thrown.
    """
    moved, direction = torch.zeros_like(off), 1 - 2 * off
    for number in range(_SOLVER_STEPS):
        gradient = torch.stack([term.gradient(moved) for term in terms]).sum(0)
        vertex = direction * _thrown(-gradient * direction, off, count=count, step=step)
        moved += (vertex - moved) * 2 / (number + 2)
    return off + direction * _thrown(moved.abs(), off, count=count, step=step)


def _thrown(
    gains: Float[torch.Tensor, " unit"], off: Float[torch.Tensor, " unit"], *, count: int, step: int
) -> Float[torch.Tensor, " unit"]:
    """1 for the switches to throw that gain most together: at most `step`, with at most `count` units off after it."""
    (best_off, which_off), (best_on, which_on) = (
        torch.where(side, gains, -torch.inf).topk(min(step, int(side.sum()))) for side in (off == 0, off == 1)
    )
    gained_off, gained_on = (torch.cat([torch.zeros(1), best.cumsum(0)]) for best in (best_off, best_on))
    free, helpful = count - int(off.sum()), int((best_on > 0).sum())
    most, chosen = 0.0, (0, 0)
    for n_off in range(len(gained_off)):
        n_on = max(n_off - free, min(helpful, step - n_off))
        if n_on <= min(step - n_off, len(best_on)) and float(gained_off[n_off] + gained_on[n_on]) > most:
            most, chosen = float(gained_off[n_off] + gained_on[n_on]), (n_off, n_on)
    found = torch.cat([which_off[: chosen[0]], which_on[: chosen[1]]])
    return torch.zeros_like(gains).scatter_(0, found, 1.0)
