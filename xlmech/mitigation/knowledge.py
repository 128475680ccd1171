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
from xlmech.data.probes import answer_gap
from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.score import answer_log_probs
from xlmech.metrics import intervals, ranking
from xlmech.models.backends import backend_of
from xlmech.models.in_context import encode_in_context
from xlmech.models.load import provenance
from xlmech.models.tokens import check_room, warn_of_straddling
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
    model: Any,
    languages: Sequence[str],
    *,
    prompt: PromptFormat = PLAIN,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> KnowledgeResult:
    """Ask for the capital of every country of `languages.CAPITALS`, as a choice among all of their capitals.

    A city's score is the log-probability of its name as the answer, minus its mean over all questions: a name that is likely
    after any question (short, common) shows no knowledge. By chance one question in 25 is right.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        languages: Query languages.
        prompt: Format of the prompts; `evaluate_mitigation` gives its probes'.
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
    backend, rows, n_straddling = backend_of(model), [], list[int]()
    for code in languages:
        question, names = packs.load_language(code).capital, packs.capitals(code)
        encoded = []
        for key, (country, _) in names.items():
            what = f"the capital of {key} in {code}"
            text = prompt.ask(question.format(country=country))
            cities = [answer_gap(text) + city for _, city in names.values()]
            item = encode_in_context(
                backend.tokenizer,
                text,
                cities,
                add_special_tokens=prompt.adds_special_tokens,
                what=what,
                what_answer=f"a capital in {code}",
            )
            check_room(backend, item.prompt, max(map(len, item.answers)), what)
            encoded.append(item)
        n_straddling += [item.n_straddling for item in encoded]
        prompts, answers = [item.prompt for item in encoded], [item.answers for item in encoded]
        label = f"capitals in {code}" if progress else ""
        log_probs = answer_log_probs(backend, prompts, answers, batch_size=batch_size, progress=label)
        scores = torch.stack(log_probs).double()
        corrected = scores - scores.mean(0)
        for number, country in enumerate(names):
            rank = ranking.rank(corrected[number], number)
            rows.append((code, country, float(rank == 1), rank, float(scores[number, number])))
    warn_of_straddling(n_straddling)
    frame = pd.DataFrame(rows, columns=["query_language", "country", "correct", "rank", "log_prob"])
    return KnowledgeResult(answers=frame, provenance=provenance(model, settings={"prompt": prompt.name}))
