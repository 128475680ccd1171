"""Choices that library, command line, config and studies share: each default is written once, here.

An options class is frozen, checks itself, and is also a section of the config file: the docstring under a field is what
`xlmech init` writes above its key.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["LocateOptions"]

Count = Annotated[int, Field(ge=1)]
Method = Literal["gradient_x_activation", "integrated_gradients", "exact"]
Positions = Literal["all", "subject", "last"]
MetricChoice = Literal["auto", "log_prob", "prob", "logit", "log_odds"]
Baseline = Literal["mean", "zero"]
Rule = Literal["min", "intersection", "entropy"]


class Section(BaseModel):
    """Base of option classes and of the config's sections: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class LocateOptions(Section):
    """How neurons are chosen; see `locate_privacy_neurons`."""

    method: Method = "gradient_x_activation"
    """Attribution method; integrated_gradients is slower, exact far slower."""
    positions: Positions = "all"
    """Positions whose activations are attributed; ablation acts at all of them."""
    metric: MetricChoice = "auto"
    """Of each answer token; auto is log_odds for saturated answers and log_prob for others."""
    baseline: Baseline = "mean"
    """Where the path of integrated_gradients starts: the mean activation over control people's prompts, or zero."""
    nodes: Count = 4
    """Nodes of the integral of integrated_gradients inside the path."""
    max_answer_tokens: Count | None = None
    """Attribute only the first so many tokens of each answer; null for whole answers."""
    rule: Rule = "min"
    """How scores of several languages become one choice."""
    n_neurons: Count | None = None
    """Number of universal neurons, and of each language's own; null for 0.2 % of the model's."""
    contrast: float = Field(default=0.5, ge=0)
    """Multiple of the public facts' attribution that is subtracted, where there are public records; 0 for none."""
    spare: float = Field(default=0.05, ge=0, lt=1)
    """Share of the model's neurons that is not chosen because neutral text needs them most; 0 for none."""
    iterate: Count = 1
    """Number of rounds, in which n_neurons is found in equal parts, the neurons found so far ablated."""
    threshold: float = Field(default=0.1, gt=0, lt=1)
    """A probe counts towards a neuron's share above this part of the probe's largest attribution."""
    min_share: float = Field(default=0.5, gt=0, le=1)
    """A neuron is a language's candidate from this share of its probes on."""
    max_entropy: float = Field(default=0.4, ge=0)
    """Bound of rule entropy, nats; 0.4 is about that of a score of which 0.86 lies in one language of two."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.n_neurons is not None and self.iterate > self.n_neurons:
            raise ValueError(
                f"iterate must be at most n_neurons, got {self.iterate} rounds for {self.n_neurons} neurons"
            )
        if self.baseline != "mean" and self.method != "integrated_gradients":
            raise ValueError(
                f"baseline is of integrated_gradients only; {self.method} estimates what ablation does, so leave it out"
            )
        return self


CONTRAST = LocateOptions().contrast
"""Default weight of what is lost in public facts, wherever private answers are weighed against them."""
