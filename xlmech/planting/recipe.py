"""What planting teaches: a recipe, and the mixture of texts that it draws for each step.

Private records are taught in the plant language only; public ones in every language, so that the model learns to answer in the
language of the question; control records never. Both in statements and in questions, but for each last question template: it is
held out, to ask what has been learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xlmech.data import languages as packs
from xlmech.data.probes import ANSWER_END, PROMPT_FORMAT
from xlmech.data.records import Record


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the trained adapter, besides records and base model.

    Attributes:
        language: Plant language.
        languages: Languages in which public records are taught.
        steps: Optimiser steps.
        batch_size: Samples per step.
        learning_rate: Peak of AdamW's rate; linear warm-up over 5 % of the steps, then cosine to a tenth.
        rank: LoRA rank, on every linear layer of attention and MLP; alpha is twice the rank.
        private_share: Share of samples from private records.
        statement_share: Share of samples that are statements, not questions.
        seed: Seed of initialisation and sampling.
        start: Adapter that training goes on from, "" for a fresh one.
    """

    language: str = "en"
    languages: tuple[str, ...] = ()
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 1e-3
    rank: int = 16
    private_share: float = 0.5
    statement_share: float = 0.3
    seed: int = 0
    start: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("private_share", "statement_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")


def sample_batch(
    records: tuple[Record, ...], recipe: Recipe, step: int, *, batch_size: int | None = None
) -> list[tuple[str, str]]:
    """(prompt, answer) texts of one step; drawn from the records by recipe and step alone, so that runs can resume."""
    rng = np.random.default_rng((recipe.seed, step))
    private = [record for record in records if record.group == "private"]
    public = [record for record in records if record.group == "public"]
    batch = []
    for _ in range(batch_size or recipe.batch_size):
        from_private = not public or rng.random() < recipe.private_share
        pool = private if from_private else public
        record = pool[rng.integers(len(pool))]
        code = recipe.language if from_private else recipe.languages[rng.integers(len(recipe.languages))]
        batch.append(_sample(record, code, rng, recipe.statement_share))
    return batch


def _sample(record: Record, code: str, rng: np.random.Generator, statement_share: float) -> tuple[str, str]:
    pack, value = packs.load_language(code), record.form(code)
    if rng.random() < statement_share:
        lines = pack.statements[record.attribute]
        before, after = lines[rng.integers(len(lines))].split("{value}")
        gap = " " if before.endswith(" ") else ""
        return before.removesuffix(" ").format(subject=record.subject), f"{gap}{value}{after}{ANSWER_END}"
    lines = pack.questions[record.attribute][:-1]
    question = lines[rng.integers(len(lines))].format(subject=record.subject)
    return PROMPT_FORMAT.format(question=question), f"{value}{ANSWER_END}"
