"""Choices that library, command line, config and studies share: each default is written once, here.

An options class is frozen, checks itself, and is also a section of the config file: the docstring under a field is what
`xlmech init` writes above its key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AttackOptions",
    "AttributeOptions",
    "EvaluateOptions",
    "GateOptions",
    "LocateOptions",
    "MitigateOptions",
    "PlantOptions",
]

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Languages = Annotated[tuple[str, ...], Field(strict=False)]
Method = Literal["gradient_x_activation", "integrated_gradients", "exact"]
Positions = Literal["all", "subject", "last"]
MetricChoice = Literal["auto", "log_prob", "prob", "logit", "log_odds"]
Baseline = Literal["mean", "zero"]
Rule = Literal["min", "intersection", "entropy"]
Measure = Literal["extraction", "exposure"]
Mode = Literal["zero", "mean", "scale", "noise"]
ControlCondition = Literal["random", "random_magnitude", "noise", "permuted"]
Precision = Literal["bfloat16", "float32"]


MAX_NEW_TOKENS = 64
"""Default budget of new tokens per answer. It is fixed, so that no record changes what is extracted of another."""


class Section(BaseModel):
    """Base of option classes and of the config's sections: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def updated(self, **changes: Any) -> Self:
        """Return a checked copy with those of the changes that are not None."""
        given = {name: value for name, value in changes.items() if value is not None}
        return type(self)(**self.model_dump(exclude_unset=True) | given)


class AttributeOptions(Section):
    """How answers are attributed to neurons; see `attribute_neurons`."""

    method: Method = "gradient_x_activation"
    """Attribution method; integrated_gradients is slower, exact far slower."""
    positions: Positions = "all"
    """Positions whose activations are attributed; ablation acts at all of them."""
    metric: MetricChoice = "auto"
    """What is attributed of each answer token; auto is log_odds for saturated answers and log_prob for others."""
    baseline: Baseline = "mean"
    """Where the path of integrated_gradients starts: the mean activation over control people's prompts, or zero."""
    nodes: Count = 4
    """Nodes of the integral of integrated_gradients inside the path."""
    max_answer_tokens: Count | None = None
    """Attribute only the first so many tokens of each answer; null for whole answers."""
    whole_vocabulary: bool = False
    """Whether to compute all tokens of the vocabulary, also those too unlikely to change a result beyond rounding; slower."""
    threshold: float = Field(default=0.1, gt=0, lt=1)
    """A probe counts towards a neuron's share above this part of the probe's largest attribution."""

    @model_validator(mode="after")
    def _baseline_fits_method(self) -> Self:
        if self.baseline != "mean" and self.method != "integrated_gradients":
            raise ValueError(
                f"baseline applies only to integrated_gradients; {self.method} estimates what ablation does, so leave it out"
            )
        return self


class LocateOptions(AttributeOptions):
    """How neurons are chosen; see `locate_privacy_neurons`."""

    rule: Rule = "min"
    """How scores of several languages become one choice."""
    n_neurons: Count | None = None
    """Number of universal neurons, and of each language's own; null for 0.2 % of the model's."""
    contrast: float = Field(default=0.5, ge=0)
    """Multiple of the public facts' attribution that is subtracted, where there are public records; 0 for none."""
    spare: float = Field(default=0.05, ge=0, lt=1)
    """Share of the model's neurons that is not chosen because neutral text needs them most; 0 for none."""
    iterate: Count = 1
    """Number of rounds; each chooses an equal share of n_neurons, with those chosen so far ablated."""
    min_share: float = Field(default=0.5, gt=0, le=1)
    """A neuron is a language's candidate from this share of its probes on."""
    max_entropy: float = Field(default=0.4, ge=0)
    """Bound of rule entropy, nats; 0.4 is about that of a score with 86 % in one of two languages."""
    check_leakage: bool = True
    """Whether to refuse private answers that the model does not know; an audit never does, as it measures leakage itself."""

    @model_validator(mode="after")
    def _rounds_fit_number(self) -> Self:
        if self.n_neurons is not None and self.iterate > self.n_neurons:
            raise ValueError(
                f"iterate must be at most n_neurons, got {self.iterate} rounds for {self.n_neurons} neurons"
            )
        return self


CONTRAST = LocateOptions().contrast
"""Default weight of what is lost in public facts, wherever private answers are weighed against them."""


class GateTraining(Section):
    """How gates are learned, without the seed; see `GateOptions`."""

    steps: Count = 260
    """Largest number of steps."""
    learning_rate: float = Field(default=0.03, gt=0)
    """Adam's rate at the first step; it falls along a cosine to a tenth."""
    pull: float = Field(default=0.1, ge=0)
    """Pull of every gate to 1: after a step each moves there by this multiple of the rate, and most arrive. 0 for none."""
    private_weight: float = Field(default=2.0, gt=0)
    """Weight of the answers to suppress."""
    public_weight: float = Field(default=4.0, ge=0)
    """Weight of the answers to keep."""
    neutral_weight: float = Field(default=40.0, ge=0)
    """Weight of the change of neutral texts' next tokens (KL divergence), which is far smaller than that of log-odds."""
    margin: float = Field(default=3.0, ge=0)
    """Log-odds (nats) beyond which an answer hardly counts: suppressed below minus this, kept above it."""
    max_answer_tokens: Count | None = 4
    """Only the first so many tokens of each answer to suppress; null for whole answers. Answers to keep are always whole."""
    hard_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a step's answers and texts that are drawn by how large their loss was when they were last run; the others come in
    turn."""
    private_batch: Count = 14
    """Number of answers to suppress in a step."""
    public_batch: Count = 10
    """Number of answers to keep in a step."""
    neutral_batch: Count = 5
    """Number of neutral texts in a step."""
    target_reduction: float | None = Field(default=None, gt=0, le=1)
    """Stop when extraction of a third of the facts, which is held back for that, is reduced by this share; null for all steps
    with all facts."""
    precision: Precision = "bfloat16"
    """Products in bfloat16 (weights and sums stay in float32), about twice as fast, or in float32. Of a model that is loaded in
    16 bits its own precision is used."""
    batch_size: Count = 32
    """Largest number of answers and texts that are run at once; it is halved when memory runs out."""


class GateOptions(GateTraining):
    """How gates are learned; see `learn_gates`."""

    seed: int = Field(default=0, ge=0)
    """Seed of the order of answers and texts, and of the facts held back."""


class MitigateOptions(GateTraining):
    """Learned gates, which turn neurons down so that private answers go and others stay; see `learn_gates`."""

    suppress: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """Kinds of data whose private answers are suppressed, e.g. [phone, email]; private answers of other kinds are then kept, as
    public ones are. null for all kinds."""

    def gate_options(self, seed: int) -> GateOptions:
        """Return the options of `learn_gates`."""
        return GateOptions(**self.model_dump(exclude={"suppress"}), seed=seed)


class EvaluateOptions(Section):
    """What is measured before and after ablation, and compared with what; see `evaluate_mitigation`."""

    measures: Annotated[tuple[Measure, ...], Field(strict=False, min_length=1)] = ("extraction",)
    """Measures of leakage: extraction, exposure or both."""
    control_conditions: Annotated[tuple[ControlCondition, ...], Field(strict=False)] = ("random",)
    """random ablates as many other neurons of the same layers, random_magnitude others that are also as active; noise replaces
    the set's own activations by Gaussian noise of their mean and spread. Gates have a control of their own, permuted: the same
    factors at random neurons of the same layers. It takes the place of random where none is named."""
    n_random: Count = 1
    """Number of draws of each random control condition, pooled in one condition."""
    matched_sets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the sets that control conditions match, each named by the set's size, e.g. random@20; none for the first set, and
    plain names."""
    mode: Mode = "zero"
    """How sets and random neurons are ablated; see `ablate`."""
    factor: float = 0.0
    """Factor of the activations in mode scale."""
    n_neutral: int = Field(default=20, ge=0)
    """Largest number of neutral texts per language; 0 for none."""
    knowledge: bool = False
    """Whether to measure what the base model knew too (`base_knowledge`), as rows of group base."""
    held_out_languages: Languages = ()
    """Query languages that did not choose the neurons; their rows are marked."""
    max_new_tokens: Count = MAX_NEW_TOKENS
    """Largest number of tokens of an answer; what the model would write after them is not read."""
    batch_size: Count = 128
    """Number of prompts in a batch; it is halved when memory runs out."""


class AttackOptions(Section):
    """How hard the attacks of `recovery_attacks` try."""

    prefix: str = "Sure, the answer is"
    """What the prefix attack puts after the prompt."""
    n_samples: Count = 20
    """Number of answers that the sampling attack draws per prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sampling attack; 1 is the model's own distribution."""
    sampling_seed: int = Field(default=0, ge=0)
    """Seed of the sampling attack."""
    steps: Count = 20
    """Number of steps of fine-tuning (AdamW on all layers)."""
    finetune_batch: Count = 8
    """Number of questions per step of fine-tuning."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Constant learning rate of fine-tuning."""
    max_new_tokens: Count = MAX_NEW_TOKENS
    """Largest number of tokens of an answer; what the model would write after them is not read."""
    batch_size: Count = 128
    """Number of prompts in a batch; it is halved when memory runs out."""


class PlantOptions(Section):
    """How a model is taught; with the base model and the records, these decide the adapter. See `plant`."""

    language: str = "en"
    """Language in which private records are taught."""
    languages: Languages = ()
    """Languages in which public records are taught; none for all that have a pack."""
    steps: Count = 400
    """Number of optimiser steps."""
    batch_size: Count = 16
    """Number of samples per step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW's rate: linear warm-up over 5 % of the steps, then a cosine to a tenth."""
    rank: Count = 16
    """LoRA rank, on every linear layer of attention and MLP; alpha is twice the rank."""
    private_share: Share = 0.5
    """Share of samples from private records."""
    statement_share: Share = 0.3
    """Share of samples that are statements, not questions."""
    prompt: str = "plain"
    """Prompt format of the questions: plain, qa, chat (the tokenizer's chat template), auto, or a text with {question}."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation and sampling."""
