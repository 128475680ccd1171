"""Read residual streams through the unembedding: first tokens at prompt positions, and whole values with the answer forced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.engine.batching import Recorder, run_batched
from xlmech.engine.score import ROWS_PER_PASS, forced_log_prob
from xlmech.engine.unembed import token_logits
from xlmech.lens.candidates import describe, form_kind
from xlmech.lens.tuned import TunedLens
from xlmech.models.backends import Backend
from xlmech.models.tokens import EncodedProbe, check_room
from xlmech.progress import progress_bar

Component = Literal["resid_post", "attn_out", "mlp_out"]
Positions = Literal["last", "all"]
ReadingRow = dict[str, Any]
OwnTokens = dict[str, dict[str, torch.Tensor]]
_ROWS_PER_PASS = 64


@dataclass(frozen=True, kw_only=True)
class LensDecoder:
    """Decode a layer's activations into hidden states that can be unembedded.

    Attributes:
        backend: The model.
        component: Hook point, `resid_post` and so on.
        lens: Translators, None for the raw lens.
    """

    backend: Backend
    component: Component
    lens: TunedLens | None

    def recorder(self) -> Recorder:
        """Return a recorder of the component at every layer."""
        return Recorder(self.backend, f"hook_{self.component}")

    def hidden(self, activation: torch.Tensor, layer: int) -> torch.Tensor:
        """Return (..., d_model) activation of a layer after the translator and the model's own final norm."""
        return self.backend.final_norm(self.lens.translate(activation, layer) if self.lens else activation)


@dataclass(frozen=True, kw_only=True)
class LensTask:
    """Options of the readings; a task of `run_task`.

    Attributes:
        component: As of `logit_lens`.
        positions: As of `logit_lens`.
        lens: Translators, None for the raw lens.
        own_tokens: As of `language_tokens`, of all probes; None to read whole values.
        plant_language: Training language of the model, "" where unknown.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "lens"
    component: Component
    positions: Positions
    lens: TunedLens | None
    own_tokens: OwnTokens | None
    plant_language: str
    batch_size: int
    progress: bool = field(compare=False)

    def __call__(self, backend: Backend, items: Sequence[EncodedProbe]) -> dict[str, Any]:
        """Return the frame `rows`, made by `first_token_rows` or `whole_value_rows`."""
        decoder = LensDecoder(backend=backend, component=self.component, lens=self.lens)
        options: dict[str, Any] = {
            "plant_language": self.plant_language,
            "batch_size": self.batch_size,
            "progress": self.progress,
        }
        if self.own_tokens is None:
            rows = whole_value_rows(decoder, items, **options)
        else:
            rows = first_token_rows(decoder, items, self.own_tokens, positions=self.positions, **options)
        return {"rows": pd.DataFrame(rows)}


@torch.no_grad()
def first_token_rows(
    decoder: LensDecoder,
    items: Sequence[EncodedProbe],
    own_tokens: OwnTokens,
    *,
    positions: Positions,
    plant_language: str,
    batch_size: int,
    progress: bool,
) -> list[ReadingRow]:
    """Make one row per probe, layer, position and form, in the order of the probes; `own_tokens` as of `language_tokens`."""
    backend, recorder = decoder.backend, decoder.recorder()
    rows: list[list[ReadingRow]] = [[] for _ in items]

    def read(tokens: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        first = tokens.shape[1] - 1 if positions == "last" else 0
        sites = [(index, position) for index in indices for position in range(first, tokens.shape[1])]
        activations = [activation[:, first:].flatten(0, 1) for activation in recorder.kept]
        # All layers together, because every pass over the vocabulary reads the whole unembedding.
        hidden = torch.cat([decoder.hidden(activation, layer) for layer, activation in enumerate(activations)])
        cells = [(index, layer, position) for layer in range(len(activations)) for index, position in sites]
        for start in range(0, len(cells), _ROWS_PER_PASS):
            part = cells[start : start + _ROWS_PER_PASS]
            logits = token_logits(hidden[start : start + len(part)], backend.unembed, **backend.unembed_options)
            readings = _look_up(logits.contiguous(), [items[index] for index, _, _ in part], own_tokens, plant_language)
            for (index, layer, position), cell_rows in zip(part, readings, strict=True):
                common = describe(items[index].probe) | {"layer": layer, "position": position}
                rows[index] += [common | reading for reading in cell_rows]

    run_batched([item.prompt for item in items], read, batch_size=batch_size, progress="logit lens" if progress else "")
    return [row for probe_rows in rows for row in probe_rows]


def _look_up(
    logits: Float[torch.Tensor, "row d_vocab"],
    items: Sequence[EncodedProbe],
    own_tokens: OwnTokens,
    plant_language: str,
) -> Iterator[list[ReadingRow]]:
    """Read, per row, the first token of each form."""
    log_probs = logits.log_softmax(-1)
    entropies = torch.special.entr(log_probs.exp()).sum(-1).tolist()
    firsts = [item.first_tokens for item in items]
    width = max(map(len, firsts))
    # Rows with fewer forms repeat their first one; the repetitions are cut off below.
    targets = [[*tokens.values()] + [next(iter(tokens.values()))] * (width - len(tokens)) for tokens in firsts]
    own = log_probs.gather(1, torch.tensor(targets, device=logits.device))
    ranks = torch.stack([1 + (log_probs > own[:, [form]]).sum(1) for form in range(width)], dim=1)
    for row, (item, probs, rank) in enumerate(zip(items, own.exp().tolist(), ranks.tolist(), strict=True)):
        sets = own_tokens.get(item.probe.record.attribute, {})
        mass = {code: float(log_probs[row, tokens.to(logits.device)].exp().sum()) for code, tokens in sets.items()}
        yield [
            {
                "entropy": entropies[row],
                "form_language": code,
                "form": form_kind(item, code, plant_language),
                "prob": probs[number],
                "rank": rank[number],
                "language_mass": mass.get(code, float("nan")),
                "shared_mass": mass.get("", float("nan")),
            }
            for number, code in enumerate(item.answers)
        ]


@torch.no_grad()
def whole_value_rows(
    decoder: LensDecoder, items: Sequence[EncodedProbe], *, plant_language: str, batch_size: int, progress: bool
) -> list[ReadingRow]:
    """Make one row per probe, layer and form: the log-probability of the whole form, which is forced."""
    rows = []
    for item in progress_bar(items, "logit lens: whole values", shown=progress):
        check_room(decoder.backend, item.prompt, max(map(len, item.answers.values())), f"probe {item.id}")
        answers = sorted(set(item.answers.values()))
        scores = dict(zip(answers, _answer_log_probs(decoder, item.prompt, answers, batch_size).unbind(1), strict=True))
        for code, tokens in item.answers.items():
            for layer, log_prob in enumerate(scores[tokens].tolist()):
                rows.append(
                    describe(item.probe)
                    | {
                        "layer": layer,
                        "form_language": code,
                        "form": form_kind(item, code, plant_language, whole=True),
                        "log_prob": log_prob,
                        "log_prob_per_token": log_prob / len(tokens),
                        "n_tokens": len(tokens),
                    }
                )
    return rows


def _answer_log_probs(
    decoder: LensDecoder, prompt: Sequence[int], answers: Sequence[tuple[int, ...]], batch_size: int
) -> Float[torch.Tensor, "layer answer"]:
    """Compute the log-probability (nats, summed over tokens) of every answer at every layer; the prompt is run once."""
    backend, recorder = decoder.backend, decoder.recorder()
    with backend.hooks(recorder.hooks()):
        _, past = backend.hidden(torch.tensor([list(prompt)]))
    last = torch.cat([decoder.hidden(activation[:, -1], layer) for layer, activation in enumerate(recorder.kept)])
    first_log_probs = token_logits(last, backend.unembed, **backend.unembed_options).log_softmax(-1)
    totals = first_log_probs[:, [answer[0] for answer in answers]]

    def add(tokens: torch.Tensor, indices: list[int]) -> None:
        if tokens.shape[1] < 2:
            return
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens[:, :-1], past.repeat(len(indices)))
        hidden = torch.cat([decoder.hidden(activation, layer) for layer, activation in enumerate(recorder.kept)])
        targets = tokens[:, 1:].repeat(len(recorder.kept), 1)
        scores = forced_log_prob(backend, hidden, targets, rows_per_pass=ROWS_PER_PASS)
        totals[:, indices] += scores.view(-1, len(indices)).to(totals.dtype)

    run_batched(answers, add, batch_size=batch_size)
    return totals.cpu()
