"""Read which tokens every layer would write at every token of one prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.data.probes import Probe
from xlmech.data.records import MASK, Record
from xlmech.engine.batching import run_in_batches
from xlmech.engine.token_spans import token_table
from xlmech.engine.unembed import token_logits
from xlmech.lens.readings import LensDecoder
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_choices, encode_probe, subject_tokens
from xlmech.storage.result import Result

SHORTEST_PIECE = 3
"""Least number of letters that give a name or value away by its beginning."""
_ROWS_PER_PASS = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class LensPredictions(Result):
    """The likeliest tokens per layer and position of one prompt.

    Attributes:
        cells: One row per (layer, position, rank): `token` (text; masked where it is of a name or a value), `form` (the language
            whose form of the answer begins with it, "" for none; the query language's first), `prob` (0 to 1), and the cell's
            `entropy` (nats).
        tokens: One row per position: `part` (`special`, `before`, `subject`, `after`), `token` (masked in the subject).
        probe: Id of the probe.
        query_language: Language of the prompt.
    """

    kind: ClassVar[str] = "lens_predictions"
    cells: pd.DataFrame
    tokens: pd.DataFrame
    probe: str
    query_language: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer, position and rank."""
        return self.cells

    def best(self) -> pd.DataFrame:
        """Return the likeliest token of each layer and position."""
        return self.cells[self.cells["rank"] == 1].reset_index(drop=True)


@torch.no_grad()
def predicted_tokens(
    model: Any, probe: Probe, *, k: int = 5, records: Iterable[Record] = (), reveal: bool = False
) -> LensPredictions:
    """List the `k` likeliest next tokens at every layer and token of one prompt, by the raw logit lens.

    The last layer is the model's own output; what it says of the last token is how it begins its answer. A token that is likely
    in an early layer need not be used by later ones.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        probe: The prompt to read.
        k: Tokens per cell.
        records: Other people's records, whose names and values of the same attribute are masked too.
        reveal: Whether tokens of names and values are shown.

    Returns:
        LensPredictions.

    Raises:
        ValueError: `k` below 1 or above the vocabulary; or, without `reveal`, a subject whose tokens cannot be found.
    """
    backend = backend_of(model)
    if not 1 <= k <= len(backend.unembed):
        raise ValueError(f"k must be from 1 to the vocabulary's {len(backend.unembed):,}, got {k}")
    encoded = encode_probe(backend, probe, languages=tuple(probe.answers), room=0)
    decoder = LensDecoder(backend=backend, component="resid_post", lens=None)
    recorder = decoder.recorder()
    with backend.hooks(recorder.hooks()):
        backend.hidden(torch.tensor([encoded.prompt]))
    hidden = torch.cat([decoder.hidden(kept[0], layer) for layer, kept in enumerate(recorder.kept)])
    forms = _form_languages(encoded.first_tokens, probe.query_language)
    records = tuple(records)
    masked = frozenset() if reveal else secret_tokens(backend, probe, records)
    words = frozenset() if reveal else secret_words(probe, records)
    rows: list[tuple[Any, ...]] = []

    def read(indices: list[int]) -> None:
        logits = token_logits(hidden[indices], backend.unembed, **backend.unembed_options)
        log_probs = logits.log_softmax(-1)
        entropies = torch.special.entr(log_probs.exp()).sum(-1).tolist()
        best = log_probs.topk(k)
        for index, entropy, scores, tokens in zip(
            indices, entropies, best.values.exp().tolist(), best.indices.tolist(), strict=True
        ):
            layer, position = divmod(index, len(encoded.prompt))
            for rank, (prob, token) in enumerate(zip(scores, tokens, strict=True), start=1):
                text = backend.tokenizer.decode([token])
                text = MASK if token in masked or begins_word(text, words) else text
                rows.append((layer, position, rank, text, forms.get(token, ""), prob, entropy))

    run_in_batches(len(hidden), read, key=lambda index: index, batch_size=_ROWS_PER_PASS)
    columns = ["layer", "position", "rank", "token", "form", "prob", "entropy"]
    return LensPredictions(
        cells=pd.DataFrame(rows, columns=columns),
        tokens=token_table(backend, probe, reveal=reveal).head(len(encoded.prompt)),
        probe=probe.id,
        query_language=probe.query_language,
        provenance=provenance(model),
    )


def _form_languages(first_tokens: dict[str, int], query_language: str) -> dict[int, str]:
    """Map each form's first token to its language; the query language's counts where several share it."""
    ordered = {code: first_tokens[code] for code in (query_language, *first_tokens)}
    return {token: code for code, token in reversed(ordered.items())}


def secret_tokens(backend: Backend, probe: Probe, records: Iterable[Record] = ()) -> frozenset[int]:
    """Return the tokens of the probe's subject and value, and of other records' names and values of its attribute.

    Tokens that are only spaces or signs are no secret.

    Args:
        backend: The model.
        probe: The probe, which says what stands before a value.
        records: Other people's records.

    Raises:
        ValueError: As `subject_tokens`.
    """
    names, forms = _secrets(probe, records)
    found = {token for answer in encode_choices(backend, probe, sorted(forms), room=0).answers for token in answer}
    prompt = encode_probe(backend, probe, languages=(), room=0).prompt
    found |= {prompt[position] for position in subject_tokens(backend, probe)}
    for name in names:
        for text in (name, f" {name}"):
            found |= set(backend.tokenizer(text, add_special_tokens=False).input_ids)
    return frozenset(token for token in found if _tells(backend.tokenizer.decode([token])))


def secret_words(probe: Probe, records: Iterable[Record] = ()) -> frozenset[str]:
    """Return the words of the names and values whose tokens `secret_tokens` returns, in lower case."""
    return frozenset(word for texts in _secrets(probe, records) for text in texts for word in text.casefold().split())


def begins_word(text: str, words: Iterable[str]) -> bool:
    """Tell whether a token's text, of three letters or more, is how one of the words begins, in any case.

    The likeliest token may cut a name or value in another way than the tokenizer does.
    """
    piece = text.strip().casefold()
    return len(piece) >= SHORTEST_PIECE and any(word.startswith(piece) for word in words)


def _secrets(probe: Probe, records: Iterable[Record]) -> tuple[set[str], set[str]]:
    """Return the names and the values that are hidden: the probe's, and other records' of its attribute."""
    others = [record for record in records if record.attribute == probe.record.attribute]
    forms = set(probe.answers.values())
    forms |= {form for record in others for code in probe.answers if (form := record.form(code))}
    return {probe.record.subject, *(record.subject for record in others)}, forms


def _tells(text: str) -> bool:
    """Tell whether a token's text has a letter or digit, or bytes of one."""
    return "\ufffd" in text or any(map(str.isalnum, text))
