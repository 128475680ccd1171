"""Direct logit attribution: which layer's attention or MLP writes which language's form of the answer?

The last residual stream is the sum of the embedding and of every attention's and MLP's output. With the final norm's scale held
at the model's own (as in TransformerLens' `ActivationCache.apply_ln_to_stack`), a form's logit is a sum of one term per
component. Effects through later components, on the norm's scale, and through a final soft-cap are left out.

Example:
    >>> result = direct_logit_attribution(load_model("demo"), probes.filter(group="private"))
    >>> result.summary().query("form == 'query - plant'")
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import BATCH_SIZE, Recorder, run_batched
from xlmech.engine.norm import FrozenNorm
from xlmech.lens.candidates import describe, encode_with_forms, form_kind
from xlmech.metrics import intervals
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import EncodedProbe
from xlmech.storage.result import Result

_TOLERANCE = 2e-2
_KEYS = ["query_language", "component", "layer", "form"]
_Mean = tuple[Float[torch.Tensor, "1 d_model"], Float[torch.Tensor, "1"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectLogitResult(Result):
    """Terms of each form's first-token logit at the position that predicts the answer.

    Attributes:
        contributions: One row per (probe, component, layer, form_language). `component` is `embed` (with the positions'
            embedding, layer -1), `attn_out` or `mlp_out` (after the post-norm, in architectures that have one), or
            `bias` (of the final norm and the unembedding, layer -1). `logit` is the term; `centred` the same less its
            mean over the vocabulary, which is what counts in a softmax. `form` as in the lens.
        totals: One row per (probe, form_language): `logit` before any soft-cap, and `error`, the sum of the terms less
            that.
        n_layers: Of the model.
        n_collisions: Probes left out because the query and the plant language's forms share their first token.
        plant_language: As of the model.
    """

    kind: ClassVar[str] = "direct_logit"
    contributions: pd.DataFrame
    totals: pd.DataFrame
    n_layers: int
    n_collisions: int = 0
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per probe, component, layer and form."""
        return self.contributions

    def summary(self) -> pd.DataFrame:
        """Return the mean `centred` term with its 95 % interval (over subjects) per query language, component, layer and `form`.

        `form` is `query`, `plant`, or `query - plant`: what turns the answer from the plant language's form to the query
        language's.
        """
        frame = self.contributions[self.contributions.form.isin(["query", "plant"])]
        keys = ["query_language", "component", "layer", "probe", "subject"]
        wide = frame.pivot(index=keys, columns="form", values="centred")
        if "plant" in wide:
            wide["query - plant"] = wide["query"] - wide["plant"]
        terms = wide.reset_index().melt(id_vars=keys, value_name="value").dropna(subset="value")
        rows = []
        for language, part in terms.groupby("query_language", sort=False):
            cells = part.pivot_table(index="subject", columns=_KEYS[1:], values="value", aggfunc=["sum", "count"])
            estimates = intervals.mean_intervals(
                cells["sum"].fillna(0).to_numpy(float), cells["count"].fillna(0).to_numpy(float)
            )
            for key, *figures in zip(cells["sum"].columns, *estimates, strict=True):
                named = dict(zip(_KEYS, (language, *key), strict=True))
                rows.append(named | dict(zip(("value", "low", "high"), figures, strict=True)))
        return pd.DataFrame(rows)


def direct_logit_attribution(
    model: Any,
    probes: ProbeSet,
    *,
    languages: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> DirectLogitResult:
    """Decompose every form's first-token logit by layer and component.

    Args:
        model: Hooked model.
        probes: Prompts to read.
        languages: Languages whose forms are looked up; all that the probes have by default.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        DirectLogitResult; all terms of a form sum to its logit before the soft-cap. A warning says so if they do not,
        because the architecture adds something else to the stream.

    Raises:
        ValueError: No probes, or none left after collisions; a final norm that is neither LayerNorm nor RMSNorm.
    """
    backend, planted = backend_of(model), plant_language(model)
    encoded, clear = encode_with_forms(backend, probes, languages=languages, plant_language=planted)
    recorders = [Recorder(backend, f"hook_{name}") for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    hooks = [hook for recorder in recorders for hook in recorder.hooks()]
    terms: list[list[dict[str, Any]]] = [[] for _ in clear]
    totals: list[list[dict[str, Any]]] = [[] for _ in clear]
    norm, mean = FrozenNorm.of(backend), _mean_direction(backend)

    @torch.no_grad()
    def read(tokens: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(hooks):
            backend.hidden(tokens)
        embed, attn, mlp, post = ([kept[:, -1].double() for kept in recorder.kept] for recorder in recorders)
        stack, last = torch.stack([embed[0], *attn, *mlp]), recorders[-1].kept[-1][:, -1]
        _check_sum(stack.sum(0), post[-1])
        for row, index in enumerate(indices):
            rows = _attribute(backend, norm, mean, clear[index], planted, stack[:, row], last[row])
            terms[index], totals[index] = rows

    run_batched(
        [item.prompt for item in clear],
        read,
        batch_size=batch_size,
        progress="direct logit attribution" if progress else "",
    )
    return DirectLogitResult(
        contributions=pd.DataFrame([row for probe_rows in terms for row in probe_rows]),
        totals=pd.DataFrame([row for probe_rows in totals for row in probe_rows]),
        n_layers=backend.n_layers,
        n_collisions=len(encoded) - len(clear),
        plant_language=planted,
        provenance=provenance(model),
    )


def _check_sum(summed: Float[torch.Tensor, "row d_model"], stream: Float[torch.Tensor, "row d_model"]) -> None:
    error = float(((summed - stream).norm(dim=1) / stream.norm(dim=1)).max())
    if not error < _TOLERANCE:
        warnings.warn(
            f"embedding, attention and MLP outputs differ from the last residual stream by {error:.1%}: this architecture "
            "adds something else to it, or its dtype is narrow; see `error` in totals",
            stacklevel=2,
        )


def _attribute(
    backend: Backend,
    norm: FrozenNorm,
    mean: _Mean,
    item: EncodedProbe,
    planted: str,
    stack: Float[torch.Tensor, "term d_model"],
    resid: torch.Tensor,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the rows of `contributions` and `totals` of one probe."""
    tokens = torch.tensor(list(item.first_tokens.values()), device=backend.device)
    directions, biases = _directions(backend, tokens, mean)
    scaled = directions * norm.over_scale(backend, resid)
    if norm.centres:
        scaled = scaled - scaled.mean(1, keepdim=True)
    offsets = directions @ norm.offset + biases
    logits = torch.cat([stack @ scaled.T, offsets[None]]).cpu().numpy()
    names = [("embed", -1)]
    names += [(name, layer) for name in ("attn_out", "mlp_out") for layer in range(backend.n_layers)]
    common, rows = describe(item.probe), []
    for (component, layer), form_logits in zip([*names, ("bias", -1)], logits, strict=True):
        for code, logit in zip(item.answers, form_logits, strict=False):
            rows.append(
                common
                | {
                    "component": component,
                    "layer": layer,
                    "form_language": code,
                    "form": form_kind(item, code, planted),
                }
                | {"logit": float(logit), "centred": float(logit - form_logits[-1])}
            )
    true = directions @ backend.final_norm(resid[None, None])[0, 0].double() + biases
    errors = np.asarray(logits.sum(0) - true.cpu().numpy())
    totals = [
        common
        | {"form_language": code, "form": form_kind(item, code, planted), "logit": float(logit), "error": float(error)}
        for code, logit, error in zip(item.answers, true, errors, strict=False)
    ]
    return rows, totals


def _mean_direction(backend: Backend) -> _Mean:
    """Return (1, d_model) unembedding and (1,) bias, each the mean over the vocabulary, in float64."""
    mean, bias = backend.unembed.mean(0, dtype=torch.float64), backend.unembed_bias
    return mean[None], mean.new_zeros(1) if bias is None else bias.double().mean()[None]


def _directions(
    backend: Backend, tokens: Int[torch.Tensor, " token"], mean: _Mean
) -> tuple[Float[torch.Tensor, "token+1 d_model"], Float[torch.Tensor, " token+1"]]:
    """Unembedding and bias of the tokens, and as a last row their mean over the vocabulary, in float64."""
    rows, bias = backend.unembed[tokens].double(), backend.unembed_bias
    own = rows.new_zeros(len(rows)) if bias is None else bias[tokens].double()
    return torch.cat([rows, mean[0]]), torch.cat([own, mean[1]])
