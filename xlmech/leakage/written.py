"""What a model writes when it is asked, prompt by prompt: for looking at single records, not for measuring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from xlmech.data.candidates import candidate_forms
from xlmech.data.probes import ProbeSet
from xlmech.data.records import MASK, Record
from xlmech.engine.score import log_probs_of_tails
from xlmech.leakage.task import LeakageTask, describe
from xlmech.models.backends import backend_of
from xlmech.models.load import plant_language
from xlmech.models.tokens import check_budget, encode_probe
from xlmech.options import MAX_NEW_TOKENS


def written_answers(
    model: Any,
    probes: ProbeSet,
    *,
    candidates: Iterable[Record] | None = None,
    form: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    reveal: bool = False,
) -> pd.DataFrame:
    """Write each prompt's greedy answer, judge it as `measure_leakage` does, and score the true value.

    One prompt tells nothing of a rate: there are no intervals here.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        probes: Prompts.
        candidates: Records whose values are told from the true one, besides the language packs'; those of `probes` by default.
        form: Language in whose form the value is scored; the query language by default.
        max_new_tokens: Budget of new tokens per answer.
        reveal: Whether `answer` holds the text; it is masked otherwise, whatever it says: the model may know other people too.

    Returns:
        One row per probe: `probe`, `record`, `subject` (a hash), `group`, `attribute`, `query_language`, `template`, `guessable`;
        `extracted`, `own_form`, `answer_language`, `truncated`, `empty` as in `LeakageResult`; `answer`; and of the value's form
        `log_prob` (nats, summed over its tokens) and `prob`, its probability (0 to 1).

    Raises:
        ValueError: No probes, a budget below 1 or too large for the context, or a form that a value does not have.
    """
    if not len(probes):
        raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if form is not None and (missing := [probe.id for probe in probes if form not in probe.answers]):
        raise ValueError(f"no form in {form!r} of the value of probe {missing[0]}; add it to the record's forms")
    backend = backend_of(model)
    task = LeakageTask(
        measures=("extraction",), candidates=candidate_forms(probes, candidates), form_languages=None,
        planted=plant_language(model), sampling=None, max_new_tokens=max_new_tokens, batch_size=len(probes),
    )  # fmt: skip
    items = [encode_probe(backend, probe, languages=[form or probe.query_language], room=0) for probe in probes]
    check_budget(backend, items, max_new_tokens)
    written = task.written(backend, items)
    answers = [item.answers[form or item.probe.query_language] for item in items]
    sequences = [(*item.prompt, *answer) for item, answer in zip(items, answers, strict=True)]
    log_prob = log_probs_of_tails(backend, sequences, answers).numpy()
    frame = describe(probes).join(task.judged(items, written))
    texts = [text if reveal else MASK for ((text, _),) in written]
    return frame.assign(answer=texts, log_prob=log_prob, prob=np.exp(log_prob))
