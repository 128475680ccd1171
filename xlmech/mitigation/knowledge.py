"""Measure what the base model knew: capitals of countries, asked in every language.

Names of countries and cities are CLDR's (cities as exemplars of time zones); only the question is from a language pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.questions import PROMPT_FORMAT
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.score import answer_log_probs
from xlmech.metrics import intervals, ranking
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_answer, encode_prompt
from xlmech.percent import share_text
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class KnowledgeResult(Result):
    """Which capitals the model tells from the others.

    Attributes:
        answers: One row per (`query_language`, `country`): `correct` (1 if the country's capital is the likeliest, else 0),
            `rank` (of its capital among all) and `log_prob` (nats, of its capital as the answer).
    """

    kind: ClassVar[str] = "knowledge"
    answers: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return one row per query language and country."""
        return self.answers

    def headline(self) -> dict[str, str]:
        """Map each query language to the share of capitals that are known."""
        rows: Any = self.summary().itertuples()
        return {
            row.query_language: f"{share_text(row.value, row.low, row.high)} of {row.n_countries} capitals"
            for row in rows
        }

    def summary(self) -> pd.DataFrame:
        """Return one row per query language: `value` (share correct), `low`, `high` (95 %, over countries), `n_countries`."""
        rows = []
        for code, answers in self.answers.groupby("query_language", sort=False):
            value, low, high = intervals.rate_interval(answers.correct, [1.0] * len(answers))
            rows.append({"query_language": code, "value": value, "low": low, "high": high, "n_countries": len(answers)})
        return pd.DataFrame(rows)


@torch.no_grad()
def base_knowledge(
    model: Any, languages: Sequence[str], *, batch_size: int = 4 * BATCH_SIZE, progress: bool = True
) -> KnowledgeResult:
    """Ask for the capital of every country of `languages.CAPITALS`, as a choice among all of their capitals.

    A city's score is the log-probability of its name as the answer, minus its mean over all questions: a name that is likely
    after any question (short, common) shows no knowledge. By chance one question in 25 is right.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        languages: Query languages.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        KnowledgeResult.

    Raises:
        ValueError: There are no languages, or one has no pack.

    Source:
        Subtracting an answer's score without its question: Holtzman et al. 2021, arXiv:2104.08315. Differs: the mean over all
        questions stands for the empty question.
    """
    if not (languages := check_list("language", languages)):
        raise ValueError("no languages to ask in")
    backend, rows = backend_of(model), []
    for code in languages:
        question, names = packs.load_language(code).capital, packs.capitals(code)
        cities = [encode_answer(backend, city, what=f"a capital in {code}") for _, city in names.values()]
        longest = max(map(len, cities))
        prompts = [
            encode_prompt(backend, PROMPT_FORMAT.format(question=question.format(country=country)), room=longest)
            for country, _ in names.values()
        ]
        label = f"capitals in {code}" if progress else ""
        answers = answer_log_probs(backend, prompts, [cities] * len(prompts), batch_size=batch_size, progress=label)
        scores = torch.stack(answers).double()
        corrected = scores - scores.mean(0)
        for number, country in enumerate(names):
            rank = ranking.rank(corrected[number], number)
            rows.append((code, country, float(rank == 1), rank, float(scores[number, number])))
    frame = pd.DataFrame(rows, columns=["query_language", "country", "correct", "rank", "log_prob"])
    return KnowledgeResult(answers=frame, provenance=provenance(model))
