"""Attribution patching: estimate the effects of patching by gradients, and compare some with the true ones.

The contrast (log-odds of the source's value against the target's) is taken as linear around the unpatched run: its gradient
times the difference of the two runs' activations estimates every layer's and head's effect in one backward pass (Nanda
2023; Syed et al. 2023, arXiv:2310.10348). Late layers' differences are large and a contrast is far from linear in them, so
that an estimate alone says little; here it never stands without its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from xlmech.data.pairs import ProbePair
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.token_spans import Span
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import warn_of_straddling
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.gradient_estimate import estimated_changes
from xlmech.patching.plan import Component, check_pairs, collides, contrast, patched_prompt, sweep_of
from xlmech.patching.runs import patched_log_probs, run_donors
from xlmech.patching.tables import describe, patch_sites, prepend_columns
from xlmech.progress import progress_bar
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionPatchingResult(Result):
    """Estimated changes of the contrast, and for some pairs the true ones.

    Attributes:
        changes: One row per (pair, layer, head): `estimate` of the contrast's change (nats), `exact` (by patching; NaN where it
            was not run) and `error`, their difference. `head` is -1 where the component has none.
        component: As called.
        position: As called.
        n_collisions: Pairs left out because forms of two outcomes share their first token.
    """

    kind: ClassVar[str] = "attribution_patching"
    changes: pd.DataFrame
    component: str
    position: str
    n_collisions: int = 0

    def __post_init__(self) -> None:
        if self.changes.exact.isna().all():
            raise ValueError("an estimate needs the true change of one pair at least beside it")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per pair, layer and head."""
        return self.changes

    def agreement(self) -> pd.DataFrame:
        """Per layer, of the pairs (and heads) that were patched too.

        Returns:
            `mean_estimate`, `mean_exact` (nats), `relative_error` (sum of |error| / sum of |exact|; NaN where nothing
            changes), and `n` of what is compared.
        """
        patched = self.changes.dropna(subset="exact")
        sizes = patched.assign(size=patched.exact.abs(), distance=patched.error.abs()).groupby("layer")
        table = sizes[["estimate", "exact", "distance", "size"]].sum().assign(n=sizes["size"].count())
        return pd.DataFrame(
            {
                "layer": table.index,
                "mean_estimate": (table.estimate / table.n).to_numpy(),
                "mean_exact": (table.exact / table.n).to_numpy(),
                "relative_error": (table.distance / table["size"].where(table["size"] > 0, np.nan)).to_numpy(),
                "n": table.n.to_numpy(),
            }
        )

    def rank_correlation(self) -> float:
        """Return Spearman's correlation of estimate and true change, over all pairs, layers and heads that were patched too."""
        patched = self.changes.dropna(subset="exact")
        return float(patched.estimate.corr(patched.exact, method="spearman"))


def attribution_patching(
    model: Any,
    pairs: Sequence[ProbePair],
    *,
    component: Component = "resid_post",
    position: Span = "last",
    neurons: NeuronSet | None = None,
    n_exact: int = 4,
    batch_size: int = BATCH_SIZE // 4,
    progress: bool = True,
) -> AttributionPatchingResult:
    """Estimate what overwriting each layer (or head) changes, by one backward pass per pair, and patch some to compare.

    Args:
        model: Hooked model.
        pairs: As in `patch_languages`; denoising, one layer at a time, first tokens.
        component: As in `patch_languages`.
        position: As in `patch_languages`.
        neurons: As in `patch_languages`.
        n_exact: Number of pairs, the first ones, that are patched as well.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        AttributionPatchingResult.

    Raises:
        ValueError: `n_exact` below 1; or as `patch_languages`.
    """
    check_pairs(pairs)
    if n_exact < 1:
        raise ValueError(f"n_exact must be at least 1, not {n_exact}: an estimate without its error says little")
    backend = backend_of(model)
    sweep = sweep_of(backend, component, neurons=neurons)
    items = [patched_prompt(backend, pair, span=position, direction="denoising") for pair in pairs]
    warn_of_straddling([item.n_straddling for item in items])
    clear = [item for item in items if not collides(item)]
    if not clear:
        raise ValueError("in every pair, forms of two outcomes share their first token; use other attributes or pairs")
    donors = run_donors(backend, sweep.hook, clear, batch_size=batch_size)
    compared = clear[:n_exact]
    options: dict[str, Any] = {"batch_size": batch_size, "progress": "patching" if progress else ""}
    scores = patched_log_probs(backend, sweep, compared, [donor.values for donor in donors[:n_exact]], **options)
    sites, parts = patch_sites(sweep), []
    bar = progress_bar(zip(clear, donors, strict=True), "gradients", shown=progress, total=len(clear))
    for number, (item, donor) in enumerate(bar):
        estimate = estimated_changes(backend, sweep, item, donor.values).double().cpu().numpy()
        exact = np.full(len(estimate), np.nan)
        if number < len(compared):
            contrasts = contrast(scores[number].double().cpu(), list(item.forms))
            exact = (contrasts[1:] - contrasts[0]).numpy()
        parts.append(
            prepend_columns(describe(item.pair), sites.assign(estimate=estimate, exact=exact, error=estimate - exact))
        )
    return AttributionPatchingResult(
        changes=pd.concat(parts, ignore_index=True),
        component=component,
        position=position,
        n_collisions=len(items) - len(clear),
        provenance=provenance(model),
    )
