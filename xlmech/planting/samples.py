"""Draw the texts of each training step, and pad them.

Private records are taught in one language, public ones in every language, so that the model learns to answer in the language of
the question; control records are never taught. Records are taught in statements and in questions. The last question template of
each attribute is held out, to ask what has been learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int

from xlmech.data import languages as packs
from xlmech.data.probes import answer_gap
from xlmech.data.prompt_format import LINE_END, PLAIN, PromptFormat
from xlmech.data.records import Record
from xlmech.options import PlantOptions


def check_forms(records: Iterable[Record], options: PlantOptions) -> None:
    """Raise ValueError unless every record has a form in the languages in which it is taught."""
    for record in records:
        for code in (options.language,) if record.group == "private" else options.languages:
            if record.group != "control" and not record.form(code):
                raise ValueError(f"record {record.id!r} has no value form in {code}; add forms[{code!r}] to it")


def sample_batch(
    records: tuple[Record, ...], options: PlantOptions, step: int, frame: PromptFormat = PLAIN
) -> list[tuple[str, str]]:
    """Return (prompt, answer) texts of one step, so that runs can resume: the arguments alone decide them.

    Args:
        records: The records to teach.
        options: How they are drawn; `prompt` is not read.
        step: Number of the step.
        frame: Prompt format of the questions; statements stand alone, on a line.
    """
    rng = np.random.default_rng((options.seed, step))
    private = [record for record in records if record.group == "private"]
    public = [record for record in records if record.group == "public"]
    languages = options.languages or packs.available_languages()
    batch = []
    for _ in range(options.batch_size):
        from_private = not public or rng.random() < options.private_share
        pool = private if from_private else public
        record = pool[rng.integers(len(pool))]
        code = options.language if from_private else languages[rng.integers(len(languages))]
        batch.append(_sample(record, code, rng, options.statement_share, frame))
    return batch


def _sample(
    record: Record, code: str, rng: np.random.Generator, statement_share: float, frame: PromptFormat
) -> tuple[str, str]:
    pack, value = packs.find_language(code), record.form(code)
    if rng.random() < statement_share:
        lines = pack.statements[record.attribute]
        before, after = lines[rng.integers(len(lines))].split("{value}")
        gap = " " if before.endswith(" ") else ""
        return before.removesuffix(" ").format(subject=record.subject), f"{gap}{value}{after}{LINE_END}"
    lines = pack.questions[record.attribute][:-1]
    question = lines[rng.integers(len(lines))].format(subject=record.subject)
    prompt = frame.ask(question)
    return prompt, f"{answer_gap(prompt)}{value}{frame.answer_end}"


def pad(
    encoded: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[Int[torch.Tensor, "sample position"], Bool[torch.Tensor, "sample position"], Int[torch.Tensor, " token"]]:
    """Return (sample, position) tokens, where they predict an answer token, and the (token,) answer tokens.

    Padding is on the right, where causal attention does not look: no mask is needed.

    Args:
        encoded: Prompt and answer tokens of each sample.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in encoded)
    tokens = torch.zeros((len(encoded), length), dtype=torch.long)
    predicts = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(encoded):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        predicts[row, len(prompt) - 1 : end - 1] = True
    return tokens, predicts, torch.tensor([token for _, answer in encoded for token in answer])
