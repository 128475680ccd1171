"""What the base model knew before anything was planted: capitals of countries, asked in every language.

Country and city names are CLDR's (the cities as those that stand for time zones), so the question alone is a language pack's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.probes import PROMPT_FORMAT
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.generate import answer_log_probs
from xlmech.metrics import intervals, ranking
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_answer, encode_prompt
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class KnowledgeResult(Result):
    """Which capitals the model tells from the others.

    Attributes:
        answers: One row per (`query_language`, `country`): `correct` (1 where the country's own capital is the likeliest, else
            0), `rank` (of its capital among all) and `log_prob` (nats, of its capital as asked).
    """

    kind: ClassVar[str] = "knowledge"
    answers: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """One row per query language and country."""
        return self.answers

    def summary(self) -> pd.DataFrame:
        """One row per query language: `value` (share correct), `low`, `high` (95 %, over countries), `n_countries`."""
        rows = []
        for code, frame in self.answers.groupby("query_language", sort=False):
            value, low, high = intervals.rate_interval(frame.correct, [1.0] * len(frame))
            rows.append({"query_language": code, "value": value, "low": low, "high": high, "n_countries": len(frame)})
        return pd.DataFrame(rows)


@torch.no_grad()
def base_knowledge(
    model: Any, languages: Sequence[str], *, batch_size: int = 4 * BATCH_SIZE, progress: bool = True
) -> KnowledgeResult:
    """Ask for the capital of every country of `languages.CAPITALS`, as a choice among all of their capitals.

    A city's score is the log-probability of its name as the answer, minus the mean of that over all the questions: what the
    model finds likely whatever is asked (short, common names) is not knowledge. By chance a question in 25 is right.

    Args:
        model: Hooked model; what is ablated on it stays so.
        languages: Query languages.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        KnowledgeResult.

    Raises:
        ValueError: No languages, or one without a pack.

    Source:
        Subtracting what an answer scores without its question: Holtzman et al. 2021, arXiv:2104.08315. Differs: its mean over
        all the questions stands for the question that asks nothing.
    """
    if not (languages := check_list("language", languages)):
        raise ValueError("no languages to ask in")
    backend, rows = backend_of(model), []
    for code in languages:
        question, names = packs.load_language(code).capital, packs.capitals(code)
        cities = [encode_answer(backend, city, what=f"a capital in {code}") for _, city in names.values()]
        room = max(map(len, cities))
        prompts = [
            encode_prompt(backend, PROMPT_FORMAT.format(question=question.format(country=country)), room=room)
            for country, _ in names.values()
        ]
        label = f"capitals in {code}" if progress else ""
        found = answer_log_probs(backend, prompts, [cities] * len(prompts), batch_size=batch_size, progress=label)
        scores = torch.stack(found).double()
        corrected = scores - scores.mean(0)
        for number, country in enumerate(names):
            place = ranking.rank(corrected[number], number)
            own = float(scores[number, number])
            rows.append((code, country, float(place == 1), place, own))
    frame = pd.DataFrame(rows, columns=["query_language", "country", "correct", "rank", "log_prob"])
    return KnowledgeResult(answers=frame, provenance=provenance(model))
