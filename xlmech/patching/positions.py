"""Patch every layer and token of one prompt in turn: which token carries the answer at which layer?

Every cell overwrites one layer's activation at one token of the target's prompt by that of the corresponding token of the
source's. Two prompts in two languages have no common tokens; they correspond part by part (`positions.aligned_positions`:
what is before the subject, the subject, what follows it), so that a cell away from the subject's and the last token says
where in the question something happens, not at which word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from xlmech.data.pairs import ProbePair
from xlmech.engine.token_spans import token_table
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import warn_of_straddling
from xlmech.patching.gradient_estimate import estimated_changes
from xlmech.patching.plan import Component, check_pairs, collides, patched_prompt, sweep_of, without_shared_firsts
from xlmech.patching.runs import Sweep, patched_log_probs, run_donors
from xlmech.patching.tables import describe, prepend_columns, tables
from xlmech.storage.result import Result


@dataclass(frozen=True, eq=False, kw_only=True)
class PositionSweep(Result):
    """One pair, every layer and position patched in turn.

    Attributes:
        outcomes: One row per (layer, position, head, outcome): as in `PatchingResult`, first tokens; `head` is -1 where the
            component has none.
        effects: One row per (layer, position, head): as in `PatchingResult`; and `estimate`, the change of the contrast that
            one gradient predicts (attribution patching), beside the true one, `change`.
        tokens: One row per position of the target's prompt: `part` (`special`, `before`, `subject`, `after`), `token` (its
            text; masked in the subject).
        component: As called.
    """

    kind: ClassVar[str] = "position_sweep"
    outcomes: pd.DataFrame
    effects: pd.DataFrame
    tokens: pd.DataFrame
    component: str

    def __post_init__(self) -> None:
        if self.outcomes.empty or set(self.outcomes.position) != set(self.tokens.position):
            raise ValueError("a position sweep needs a cell for every position of the prompt")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer, position, head and outcome."""
        return self.outcomes

    def peaks(self) -> pd.DataFrame:
        """Find, per outcome, the cell in which its probability is highest: `layer`, `position`, `part`, `head`, `prob`."""
        best = self.outcomes.loc[self.outcomes.groupby("outcome", sort=False).log_prob.idxmax()]
        best = best.assign(prob=np.exp(best.log_prob)).merge(
            self.tokens[["position", "part"]], on="position", how="left"
        )
        return best[["outcome", "layer", "position", "part", "head", "prob"]].reset_index(drop=True)

    def estimate_error(self) -> float:
        """Compute the relative error of the estimates: sum over cells of |estimate - change| / sum of |change|."""
        return float((self.effects.estimate - self.effects.change).abs().sum() / self.effects.change.abs().sum())


def patch_positions(
    model: Any, pair: ProbePair, *, component: Component = "resid_post", progress: bool = True
) -> PositionSweep:
    """Overwrite one layer's activation at one token of the target's prompt, for every layer and token.

    Args:
        model: Hooked model.
        pair: From `ProbeSet.pairs`; the source's activations are put into the target's run.
        component: `resid_pre`, `resid_post`, `attn_out`, `mlp_out`, or `heads`: every head on its own.
        progress: Whether to show a progress bar.

    Returns:
        PositionSweep. Where both languages write a value alike, it has no outcome of that value in the source's form: the one in
        the target's form is either's.

    Raises:
        ValueError: Not a pair, or one whose two values share a first token; an unknown component, or one that the architecture
            lacks; a part of the target's prompt that the source's lacks; a subject that is not found in the tokens.
    """
    check_pairs([pair])
    if component == "neurons":
        raise ValueError("the position sweep takes no neurons; use patch_languages, or component='mlp_out'")
    backend = backend_of(model)
    item = without_shared_firsts(patched_prompt(backend, pair, span="all", direction="denoising"))
    warn_of_straddling([item.n_straddling])
    if collides(item):
        raise ValueError(
            f"pair {pair.id}: forms of its two values share their first token, so that it does not tell whose is predicted; "
            "use another pair"
        )
    sweep, sites = _position_sweep(sweep_of(backend, component), len(item.positions))
    (donor,) = run_donors(backend, sweep.hook, [item], batch_size=1)
    label = "positions" if progress else ""
    (scores,) = patched_log_probs(backend, sweep, [item], [donor.values], batch_size=1, progress=label)
    outcomes, effects = tables(sites, item, donor, scores)
    estimates = estimated_changes(backend, sweep, item, donor.values).double().cpu().numpy()
    effects = effects.assign(change=effects.contrast - effects.clean_contrast, estimate=estimates)
    return PositionSweep(
        outcomes=prepend_columns(describe(pair), outcomes),
        effects=prepend_columns(describe(pair), effects),
        tokens=token_table(backend, pair.target).head(len(item.prompt)),
        component=component,
        provenance=provenance(model),
    )


def _position_sweep(sweep: Sweep, n_positions: int) -> tuple[Sweep, pd.DataFrame]:
    """Repeat every variant of the sweep for each of `n_positions` positions; return it with the site of each variant."""
    masks, rows = {}, []
    for layer, mask in sorted(sweep.masks.items()):
        one_each = torch.eye(n_positions, dtype=torch.bool).view(n_positions, 1, n_positions, *[1] * (mask.ndim - 2))
        masks[layer] = (one_each & mask).flatten(0, 1)
        heads = range(len(mask)) if len(mask) > 1 else [-1]
        rows += [(layer, position, head) for position in range(n_positions) for head in heads]
    return Sweep(hook=sweep.hook, masks=masks), pd.DataFrame(rows, columns=["layer", "position", "head"])
