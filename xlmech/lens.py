"""Logit lens per layer and language: at which depth does which language's form of the answer rise?

Every layer's residual stream at the position that predicts the answer is read through the model's own final norm and
unembedding (nostalgebraist 2020), and the first token of each language's form is looked up, as Wendler et al. 2024
(arXiv:2402.10588) do for English. Early layers are not trained to be read like this: a low figure there is no proof
that the answer is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.backends import Backend, backend_of
from xlmech.leakage import rate, subject_hash
from xlmech.models import plant_language, provenance
from xlmech.probes import Probe, ProbeSet
from xlmech.readout import token_logits
from xlmech.results import Result
from xlmech.runner import BATCH_SIZE, Recorder, encode_answer, encode_prompt, run_batched

_ROWS_PER_READOUT = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class LensResult(Result):
    """First-token readings per probe, layer and form.

    Attributes:
        readings: One row per (probe, layer, form_language): `prob` and full-vocabulary `rank` of the first token of that
            language's form, the layer's `entropy` (nats), and the `form`: `query` or `plant` language's, `other`, or `same`
            (first token shared with the query or plant form).
        n_collisions: Probes left out because the query and the plant language's forms share their first token.
        plant_language: As of the model.
    """

    kind: ClassVar[str] = "lens"
    readings: pd.DataFrame
    n_collisions: int = 0
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row per probe, layer and form."""
        return self.readings

    def summary(self) -> pd.DataFrame:
        """Mean probability with its 95 % interval (over subjects) per query language, layer and `form`.

        `form` is `query` (the query language's), `plant` (the plant language's) or `other` (the likeliest of the rest).
        Where the query language is the plant language there is no separate `plant` row.
        """
        frame = self.readings[self.readings.form != "same"]
        keys = ["query_language", "layer", "form", "probe", "subject"]
        best = frame.groupby(keys, sort=False, as_index=False).prob.max()
        rows = []
        for (language, layer, form), part in best.groupby(["query_language", "layer", "form"], sort=False):
            value, low, high = rate(pd.DataFrame(part), "prob")
            rows.append(
                {"query_language": language, "layer": layer, "form": form, "prob": value, "low": low, "high": high}
            )
        return pd.DataFrame(rows)


def logit_lens(
    model: Any,
    probes: ProbeSet,
    *,
    languages: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> LensResult:
    """Read every layer at the position that predicts the answer's first token.

    Args:
        model: Hooked model.
        probes: Prompts to read.
        languages: Languages whose forms are looked up; all that the probes have by default.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        LensResult; its last layer is the model's own output.

    Raises:
        ValueError: No probes, or none left after collisions.
    """
    if not len(probes):
        raise ValueError("no probes to read; see build_probes, and the filters applied to its result")
    backend, planted = backend_of(model), plant_language(model)
    firsts = [_first_tokens(backend, probe, languages) for probe in probes]
    clear = [not _collides(probe, tokens, planted) for probe, tokens in zip(probes, firsts, strict=True)]
    kept = [probe for probe, is_clear in zip(probes, clear, strict=True) if is_clear]
    kept_firsts = [tokens for tokens, is_clear in zip(firsts, clear, strict=True) if is_clear]
    if not kept:
        raise ValueError(
            "in every probe the query and the plant language's forms share their first token; use other attributes"
        )
    rows: list[list[dict[str, Any]]] = [[] for _ in kept]
    recorder = Recorder(backend, "hook_resid_post")

    @torch.no_grad()
    def read(tokens: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        for layer, resid in enumerate(recorder.kept):
            hidden = backend.final_norm(resid[:, -1])
            for start in range(0, len(indices), _ROWS_PER_READOUT):
                these = indices[start : start + _ROWS_PER_READOUT]
                logits = token_logits(
                    hidden[start : start + len(these)], backend.unembed, **backend.readout
                ).contiguous()
                found = _look_up(logits, [kept_firsts[index] for index in these])
                for index, (probs, ranks, entropy) in zip(these, found, strict=True):
                    rows[index] += _readings(kept[index], layer, kept_firsts[index], probs, ranks, entropy, planted)

    prompts = [encode_prompt(backend, probe.prompt, what=f"probe {probe.id}") for probe in kept]
    run_batched(prompts, read, batch_size=batch_size, progress="logit lens" if progress else "")
    return LensResult(
        readings=pd.DataFrame([row for of_probe in rows for row in of_probe]),
        n_collisions=len(firsts) - len(kept),
        plant_language=planted,
        provenance=provenance(model),
    )


def _first_tokens(backend: Backend, probe: Probe, languages: Sequence[str] | None) -> dict[str, int]:
    return {
        code: encode_answer(backend, form, what=f"the {code} form of {probe.record.id}")[0]
        for code, form in probe.answers.items()
        if languages is None or code in languages or code == probe.query_language
    }


def _collides(probe: Probe, firsts: dict[str, int], planted: str) -> bool:
    query = probe.query_language
    return planted in firsts and planted != query and firsts[planted] == firsts[query]


def _look_up(logits: torch.Tensor, firsts: list[dict[str, int]]) -> list[tuple[list[float], list[int], float]]:
    """Per row: probability and rank of each wanted token, and the row's entropy in nats."""
    log_probs = logits.log_softmax(-1)
    entropies = torch.special.entr(log_probs.exp()).sum(-1).tolist()
    width = max(map(len, firsts))
    # Rows with fewer forms repeat their first one; the repetitions are cut off below.
    wanted = [[*tokens.values()] + [next(iter(tokens.values()))] * (width - len(tokens)) for tokens in firsts]
    own = log_probs.gather(1, torch.tensor(wanted, device=logits.device))
    ranks = torch.stack([1 + (log_probs > own[:, [form]]).sum(1) for form in range(width)], dim=1)
    return [
        (probs[: len(tokens)], places[: len(tokens)], entropy)
        for tokens, probs, places, entropy in zip(firsts, own.exp().tolist(), ranks.tolist(), entropies, strict=True)
    ]


def _readings(
    probe: Probe,
    layer: int,
    firsts: dict[str, int],
    probs: list[float],
    ranks: list[int],
    entropy: float,
    planted: str,
) -> list[dict[str, Any]]:
    common = {
        "probe": probe.id,
        "record": probe.record.id,
        "subject": subject_hash(probe.record.subject),
        "attribute": probe.record.attribute,
        "query_language": probe.query_language,
        "layer": layer,
        "entropy": entropy,
    }
    return [
        common | {"form_language": code, "form": _form(code, probe, firsts, planted), "prob": prob, "rank": place}
        for code, prob, place in zip(firsts, probs, ranks, strict=True)
    ]


def _form(code: str, probe: Probe, firsts: dict[str, int], planted: str) -> str:
    if code == probe.query_language:
        return "query"
    if code == planted:
        return "plant"
    return "same" if firsts[code] in (firsts[probe.query_language], firsts.get(planted)) else "other"
