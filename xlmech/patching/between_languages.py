"""Activation patching between languages: at which layer does the source's value appear, and in which language's form?

A source prompt (record A asked in language S) is run, and its activation at one layer and position overwrites that of a
target prompt (record B, same attribute, asked in language T). A's value in T's FORM shows a layer that holds the fact separately
from any language; A's value in S's form one that already holds the word (Dumas et al. 2025). What it does not show: that
the model uses the layer so on its own (overwriting with another prompt's activation is not what training saw), nor where
a fact comes from that is redundant; a null beside it is the pairs' `other_attribute` control.

Example:
    >>> pairs = probes.filter(group="public").pairs(source="fr", target="es", controls=True)
    >>> patch_languages(load_model("demo"), pairs).summary().query("outcome == 'source_in_target'")
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from xlmech.checks import check_choice
from xlmech.data.pairs import ProbePair
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.token_spans import Span
from xlmech.execution.resume import in_order, run_task
from xlmech.metrics import resampling
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import warn_of_straddling
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.brief import patching_brief
from xlmech.patching.plan import (
    Component,
    Direction,
    check_pairs,
    collides,
    patched_prompt,
    sweep_of,
    without_shared_firsts,
)
from xlmech.patching.runs import PatchedPrompt, Sweep, patched_log_probs, run_donors
from xlmech.patching.tables import SITE_COLUMNS, describe, means, patch_sites, prepend_columns, resampled, tables
from xlmech.storage.result import Result

Layers = Literal["single", "onward"]
Reading = Literal["first_token", "whole_value"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchingResult(Result):
    """Outcomes and effects of patched runs.

    Attributes:
        outcomes: One row per (pair, reading, layer, head, outcome): `log_prob` (nats) in the patched run, `clean_log_prob` in
            the unpatched one, `donor_log_prob` in the run (or the mean of the runs) that the activations are from. `outcome`
            says whose value in which language's form, e.g. `source_in_target`; several source languages' forms add up.
            `head` is -1 where the component has none.
        effects: One row per (pair, reading, layer, head): `contrast`, the log-odds of the source's value against the target's
            in any form (nats), `clean_contrast`, `donor_contrast`, and `normalised`: 0 where patching changes nothing, 1
            where it makes the run answer as the donor's does; NaN where those two do not differ by 1e-6.
        component: As called.
        position: As called.
        layers: As called.
        direction: As called.
        n_collisions: Pairs left out because forms of two outcomes share their first token.
        failed: Ids of pairs that failed every time and are left out; only where work is done in shards.
    """

    kind: ClassVar[str] = "patching"
    _brief = patching_brief
    outcomes: pd.DataFrame
    effects: pd.DataFrame
    component: str
    position: str
    layers: str
    direction: str
    n_collisions: int = 0
    failed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.outcomes.empty:
            raise ValueError("a patching result needs at least one pair")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per pair, reading, layer, head and outcome."""
        return self.outcomes

    def summary(self, *, reading: Reading = "first_token") -> pd.DataFrame:
        """Return means over pairs with 95 % intervals, per kind of pair, languages, layer, head and outcome.

        Returns:
            `prob` (0 to 1), `change` (of the probability, against the unpatched run) and `change_log_prob` (nats), each with
            its interval in `_low` and `_high` (over pairs of subjects; NaN and a warning for a single one), and `n_pairs`.

        Raises:
            ValueError: The result has no such reading.
        """
        frame = self._with_reading(self.outcomes, reading)
        prob = np.exp(frame.log_prob)
        frame = frame.assign(
            prob=prob, change=prob - np.exp(frame.clean_log_prob), change_log_prob=frame.log_prob - frame.clean_log_prob
        )
        return means(frame, [*SITE_COLUMNS, "outcome"], ["prob", "change", "change_log_prob"])

    def effect_summary(self, *, reading: Reading = "first_token") -> pd.DataFrame:
        """Return the mean normalised effect, as `summary`: per kind of pair, languages, layer and head.

        Raises:
            ValueError: The result has no such reading.
        """
        return means(self._with_reading(self.effects, reading), SITE_COLUMNS, ["normalised"])

    def peaks(self, *, reading: Reading = "first_token") -> pd.DataFrame:
        """Layer at which each outcome's mean probability is highest, with a 95 % interval over pairs of subjects.

        Returns:
            One row per kind of pair, languages, head and outcome: `layer`, `low`, `high`, `prob` there, `n_pairs`.

        Raises:
            ValueError: The result has no such reading.
        """
        frame, rows = self._with_reading(self.outcomes, reading), []
        frame = frame.assign(prob=np.exp(frame.log_prob))
        keys = [*SITE_COLUMNS[:3], "head", "outcome"]
        for key, part in frame.groupby(keys, sort=False):
            layers, curve, draws = resampled(pd.DataFrame(part), ["layer"], "prob")
            peak, drawn = curve.argmax(), draws.argmax(1)
            numbers = layers.layer.to_numpy()
            low, high = resampling.percentile_interval(numbers[drawn].astype(float))
            peak_row = {"layer": int(numbers[peak]), "low": float(low), "high": float(high), "prob": float(curve[peak])}
            rows.append(dict(zip(keys, key, strict=True)) | peak_row | {"n_pairs": part.pair.nunique()})
        return pd.DataFrame(rows)

    def known(self, *, at_least: float = 0.5) -> PatchingResult:
        """Keep the pairs whose two unpatched runs give their own value.

        The value's probability, in any form, by first tokens; of an `other_attribute` control only the patched run's is
        asked for. Choosing pairs so changes what a mean is about: state how many are left (`n_pairs`).

        Raises:
            ValueError: No pair is left.
        """
        frame = self.outcomes[self.outcomes.reading == "first_token"]
        frame = frame.drop_duplicates(["pair", "outcome"])
        record = frame.outcome.str.split("_in_").str[0]
        run, donor = ("target", "source") if self.direction == "denoising" else ("source", "target")
        of_run = np.exp(frame.clean_log_prob.where(record == run)).groupby(frame.pair).sum()
        of_donor = np.exp(frame.donor_log_prob.where(record == donor)).groupby(frame.pair).sum()
        null = frame.drop_duplicates("pair").set_index("pair").kind == "other_attribute"
        pairs = of_run.index[(of_run >= at_least) & ((of_donor >= at_least) | null.reindex(of_run.index))]
        if not len(pairs):
            raise ValueError(
                f"in no pair both runs give their own value at least {at_least:g}; lower it, or patch others"
            )
        outcomes, effects = (
            part[part.pair.isin(pairs)].reset_index(drop=True) for part in (self.outcomes, self.effects)
        )
        return dataclasses.replace(self, outcomes=outcomes, effects=effects)

    def headline(self) -> dict[str, str]:
        """Map each kind of pair and its languages to the largest mean normalised effect, by first tokens."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a single pair has no interval, which the text says
            effects = self.effect_summary().dropna(subset="normalised")
        best = effects.loc[effects.groupby(SITE_COLUMNS[:3], sort=False).normalised.idxmax()]
        return {
            f"{row.kind}, {row.source_language} to {row.target_language}": f"largest normalised effect {row.normalised:.2f} "
            f"({row.normalised_low:.2f} to {row.normalised_high:.2f}) at layer {row.layer}, {row.n_pairs} pairs"
            for row in best.itertuples()
        }

    def _with_reading(self, frame: pd.DataFrame, reading: str) -> pd.DataFrame:
        check_choice("reading", reading, Reading)
        if reading not in set(frame.reading):
            raise ValueError(
                f"no reading {reading!r} in this result; it has {', '.join(frame.reading.unique())} (whole values are read "
                "with whole_values=True)"
            )
        return pd.DataFrame(frame[frame.reading == reading])


def patch_languages(
    model: Any,
    pairs: Sequence[ProbePair],
    *,
    component: Component = "resid_post",
    position: Span = "last",
    layers: Layers = "single",
    direction: Direction = "denoising",
    neurons: NeuronSet | None = None,
    whole_values: bool = False,
    batch_size: int = BATCH_SIZE // 4,
    progress: bool = True,
) -> PatchingResult:
    """Overwrite one run's activations by another's, layer by layer, and read the source's and the target's value in each form.

    Args:
        model: Hooked model.
        pairs: From `ProbeSet.pairs`; several source languages are averaged, activation by activation.
        component: Activation to overwrite: `resid_pre`, `resid_post`, `attn_out`, `mlp_out`; `heads` (each head's z on its own);
            or `neurons` (those given, of the MLP's hidden activation).
        position: Where: the prompt's `last` token, the `subject_last` one, the whole `subject`, or `all` tokens. Spans of
            unequal length are aligned as in `positions.aligned_positions`, so that all of the patched one's is overwritten.
        layers: `single`: one layer at a time, later ones go on from it; `onward`: that layer and all later ones.
        direction: `denoising`: the target's prompt is run, the sources' activations are put in (is the layer enough to bring
            the source's value out?); `noising`: the source's prompt is run, the target's activations are put in (is what
            they displace needed for the source's value?). Outcomes keep their names: the source's value is the same one's.
        neurons: For component `neurons`; with `onward`, from each of their layers on.
        whole_values: Whether to read whole forms too, each forced, token by token: a pass per form.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        PatchingResult. A pair in which forms of two outcomes share their first token is left out. Of a single pair whose value
        both languages begin alike, the outcome in the target's form stands for both, as in `patch_positions`.

    Raises:
        ValueError: No pairs, or one twice; in all of them two outcomes share a first token; an unknown component, position,
            `layers` or `direction`; a component that the architecture lacks; a subject that is not found in the tokens;
            parts of a prompt without counterpart; neurons of another model, or given without their component; noising with
            several sources; NaN in an activation.

    Source:
        Dumas et al. 2025, arXiv:2411.08745. Differs: all layers are rows of one batch after a prefix that is run once.
    """
    check_pairs(pairs)
    check_choice("layers", layers, Layers)
    check_choice("direction", direction, Direction)
    backend = backend_of(model)
    sweep = sweep_of(backend, component, neurons=neurons, onward=layers == "onward")
    items = [patched_prompt(backend, pair, span=position, direction=direction) for pair in pairs]
    warn_of_straddling([item.n_straddling for item in items])
    clear = [item for item in items if not collides(item)]
    if not clear and len(items) == 1:
        clear = [item for item in map(without_shared_firsts, items) if not collides(item)]
    if not clear:
        raise ValueError(
            "in every pair, forms of two outcomes share their first token, so that it does not tell which is predicted; use "
            "other attributes, languages or pairs"
        )
    outcomes, effects, failed = list[pd.DataFrame](), list[pd.DataFrame](), list[str]()
    ids = [item.id for item in clear]
    for reading in get_args(Reading)[: 1 + whole_values]:
        task = PatchingTask(sweep=sweep, reading=reading, batch_size=batch_size, progress=progress)
        results = run_task(backend, task, clear)
        outputs = list(results)
        for frames, name in ((outcomes, "outcomes"), (effects, "effects")):
            frames.append(in_order(pd.concat([output[name] for output in outputs], ignore_index=True), "pair", ids))
        failed += results.failed
    return PatchingResult(
        outcomes=pd.concat(outcomes, ignore_index=True),
        effects=pd.concat(effects, ignore_index=True),
        component=component,
        position=position,
        layers=layers,
        direction=direction,
        n_collisions=len(items) - len(clear),
        failed=tuple(dict.fromkeys(failed)),
        provenance=provenance(model),
    )


@dataclass(frozen=True, kw_only=True)
class PatchingTask:
    """Options of patching; a task of `run_task`."""

    stage: ClassVar[str] = "patching"
    sweep: Sweep
    reading: Reading
    batch_size: int
    progress: bool = field(compare=False)

    def __call__(self, backend: Backend, items: Sequence[PatchedPrompt]) -> dict[str, Any]:
        """Return the frames `outcomes` and `effects`, as in `PatchingResult`."""
        options: dict[str, Any] = {"whole": self.reading == "whole_value", "batch_size": self.batch_size}
        label = f"patching, {self.reading}" if self.progress else ""
        donors = run_donors(backend, self.sweep.hook, items, **options, progress=label and f"{label}: sources")
        values = [donor.values for donor in donors]
        scores = patched_log_probs(backend, self.sweep, items, values, **options, progress=label)
        outcomes, effects = [], []
        for item, donor, score in zip(items, donors, scores, strict=True):
            of_outcomes, of_effects = tables(patch_sites(self.sweep), item, donor, score)
            outcomes.append(prepend_columns(describe(item.pair) | {"reading": self.reading}, of_outcomes))
            effects.append(prepend_columns(describe(item.pair) | {"reading": self.reading}, of_effects))
        return {"outcomes": pd.concat(outcomes, ignore_index=True), "effects": pd.concat(effects, ignore_index=True)}
