"""Logit lens per layer and language: at which depth does which language's form of the answer rise?

Every layer's residual stream at the position that predicts the answer is read through the model's own final norm and
unembedding (nostalgebraist 2020). Each language's form is looked up, as in Wendler et al. 2024 (arXiv:2402.10588): by its first
token, or whole and forced. A low figure in an early layer is no proof that the answer is absent; see `train_tuned_lens`.

Example:
    >>> model = load_model("demo")
    >>> probes = build_probes(demo_records(), ["fr"], attributes=["birth_country"], templates=[0])
    >>> logit_lens(model, probes.filter(group="private")).depths()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xlmech.checks import check_choice
from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import BATCH_SIZE
from xlmech.execution.resume import in_order, run_task
from xlmech.lens.brief import lens_brief
from xlmech.lens.candidates import encode_with_forms, first_tokens_differ, language_tokens
from xlmech.lens.readings import Component, LensTask, Positions
from xlmech.lens.tuned import TunedLens
from xlmech.metrics import intervals, resampling
from xlmech.metrics.layers import overtaking_layer, peak_layer
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import EncodedProbe
from xlmech.storage.result import Result

Reading = Literal["first_token", "whole_value"]
LEAD = 0.02
"""Least mean probability by which the plant form must be ahead at some layer, for the query form to overtake it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LensResult(Result):
    """Readings per probe, layer and form.

    Attributes:
        readings: First-token readings, one row per (probe, layer, position, form_language): `prob` and full-vocabulary
            `rank` of the first token of that language's form, the layer's `entropy` (nats), and the `form`: `query` or
            `plant` language's, `other`, or `same` (first token shared with the query or plant form). `language_mass` is
            the probability of all tokens with which only that language writes a candidate value of the attribute (the
            packs' values and the probes' own), `shared_mass` of those with which several do; NaN for attributes that
            are written alike in all languages. `position` counts the prompt's tokens from 0.
        values: Whole-value readings, one row per (probe, layer, form_language): `log_prob` (nats, the form forced),
            `log_prob_per_token`, `n_tokens`; `form` compares whole forms, and no probe is left out. None if not read.
        n_collisions: Probes left out of `readings` because the query and the plant language's forms share their first
            token.
        plant_language: As of the model.
        component: What was read: `resid_post`, `attn_out` or `mlp_out`.
        positions: `last` (the one that predicts the answer) or `all` of the prompt.
        lens: `raw` or `tuned`.
        failed: Ids of probes that failed every time and are not in the frames; only where work is done in shards.
    """

    kind: ClassVar[str] = "lens"
    _brief = lens_brief
    readings: pd.DataFrame
    values: pd.DataFrame | None = None
    n_collisions: int = 0
    plant_language: str = ""
    component: str = "resid_post"
    positions: str = "last"
    lens: str = "raw"
    failed: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per probe, layer, position and form."""
        return self.readings

    def summary(self, reading: Reading = "first_token") -> pd.DataFrame:
        """Return the mean probability with its 95 % interval (over subjects) per query language, layer and `form`.

        At the position that predicts the answer. `form` is `query` (the query language's), `plant` (the plant language's)
        or `other` (the likeliest of the rest). Where the query language is the plant language there is no separate `plant`
        row. For whole values `prob` is the mean over tokens, exp(log_prob_per_token), of the probes whose query and plant
        language's forms differ.

        Raises:
            ValueError: Whole values were not read.
        """
        rows = []
        for (language, layer, form), part in self._best(reading).groupby(
            ["query_language", "layer", "form"], sort=False
        ):
            by_subject = part.groupby("subject").prob.agg(["sum", "count"])
            value, low, high = intervals.mean_interval(by_subject["sum"], by_subject["count"], bounds=(0, 1))
            rows.append(
                {"query_language": language, "layer": layer, "form": form, "prob": value, "low": low, "high": high}
            )
        return pd.DataFrame(rows)

    def depths(self, reading: Reading = "first_token", *, lead: float = LEAD) -> pd.DataFrame:
        """Find the layer at which each form's mean probability peaks, and from which on the query form exceeds the plant form.

        Args:
            reading: Which readings; probabilities as in `summary`.
            lead: The overtaking is only defined where the plant form is ahead by this at some layer before.

        Returns:
            One row per query language and `event` (`query peak`, `plant peak`, `other peak`, `overtaking`): `layer` (NaN
            if it does not happen), `low`, `high` (95 %, resampling subjects), `share` (of resamples in which it happens;
            the interval is over those), `prob` (mean probability of that form at that layer, the query form's for
            `overtaking`), `n_subjects`.

        Raises:
            ValueError: Whole values were not read.
        """
        rows = []
        for language, frame in self._best(reading).groupby("query_language", sort=False):
            for event, (layer, draws, curve) in _events(_curves(pd.DataFrame(frame)), lead).items():
                happened = draws[~np.isnan(draws)]
                low, high = resampling.percentile_interval(happened)
                value = float(curve[int(layer)]) if not np.isnan(layer) else float("nan")
                rows.append(
                    {"query_language": language, "event": event, "layer": layer, "low": float(low), "high": float(high)}
                    | {"share": len(happened) / len(draws), "prob": value, "n_subjects": frame.subject.nunique()}
                )
        return pd.DataFrame(rows)

    def headline(self) -> dict[str, str]:
        """Map each query language to the layers at which the query and the plant form peak and the former overtakes."""
        shown = {}
        for language, depths in self.depths().groupby("query_language", sort=False):
            events = [
                f"{row.event} at layer {row.layer:.0f} ({row.low:.0f} to {row.high:.0f})"
                for row in depths.dropna(subset="layer").itertuples()
                if row.event != "other peak"
            ]
            shown[str(language)] = ", ".join([*events, f"{depths.n_subjects.iloc[0]:,} people"])
        return shown

    def _best(self, reading: Reading) -> pd.DataFrame:
        """Return the (probe, layer, form) probability at the predicting position; the likeliest of the `other` forms."""
        check_choice("reading", reading, Reading)
        if reading == "first_token":
            frame = self.readings
            if self.positions == "all":
                frame = frame[frame.position == frame.groupby("probe").position.transform("max")]
        elif self.values is None:
            raise ValueError("whole values were not read; call logit_lens with whole_values=True")
        else:
            frame = self.values.assign(prob=np.exp(self.values.log_prob_per_token))
            alike = frame[(frame.form == "same") & (frame.form_language == self.plant_language)].probe
            frame = frame[~frame.probe.isin(alike)]
        keys = ["query_language", "layer", "form", "probe", "subject"]
        return pd.DataFrame(frame[frame.form != "same"].groupby(keys, sort=False, as_index=False).prob.max())


_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # (layer,) mean, (resample, layer) draws


def _curves(frame: pd.DataFrame) -> dict[str, _Curve]:
    """Compute, per form of one query language, the mean probability per layer, as it is and resampled by subject."""
    subjects, layers = list(frame.subject.unique()), sorted(frame.layer.unique())
    curves = {}
    for form in ("query", "plant", "other"):
        cells = frame[frame.form == form].groupby(["subject", "layer"]).prob.agg(["sum", "count"])
        if cells.empty:
            continue
        full = cells.reindex(pd.MultiIndex.from_product([subjects, layers]), fill_value=0)
        shape = (len(subjects), len(layers))
        curves[form] = resampling.bootstrap_means(
            full["sum"].to_numpy(float).reshape(shape), full["count"].to_numpy(float).reshape(shape)
        )
    return curves


def _events(
    curves: dict[str, _Curve], lead: float
) -> dict[str, tuple[float, NDArray[np.float64], NDArray[np.float64]]]:
    """Map each event to its layer, that of every resample, and the curve it is read on."""
    events = {}
    for form, (mean, draws) in curves.items():
        events[f"{form} peak"] = (float(peak_layer(mean)), peak_layer(draws), mean)
    if "query" in curves and "plant" in curves:
        (query, query_draws), (plant, plant_draws) = curves["query"], curves["plant"]
        layer = float(overtaking_layer(query, plant, lead=lead))
        events["overtaking"] = (layer, overtaking_layer(query_draws, plant_draws, lead=lead), query)
    return events


def readable_attributes(model: Any, probes: ProbeSet) -> tuple[str, ...]:
    """List the attributes whose answers the lens can distinguish by language: the translated ones, if there are any.

    Other attributes (phones, say) have one form for all languages; they are readable if their first tokens differ from the plant
    language's form.

    Args:
        model: Hooked model.
        probes: Probes to choose from.

    Returns:
        Attributes in the order of the probes; none if all forms in the query language begin like the plant language's.
    """
    backend, planted = backend_of(model), plant_language(model)

    by_attribute = {attribute: probes.filter(attributes=[attribute]) for attribute in probes.attributes}
    readable = tuple(
        attribute
        for attribute, attribute_probes in by_attribute.items()
        if any(first_tokens_differ(backend, probe, planted) for probe in attribute_probes)
    )
    translated = {
        attribute
        for attribute in readable
        if any(len(set(probe.answers.values())) > 1 for probe in by_attribute[attribute])
    }
    return tuple(attribute for attribute in readable if attribute in translated) or readable


def logit_lens(
    model: Any,
    probes: ProbeSet,
    *,
    languages: Sequence[str] | None = None,
    component: Component = "resid_post",
    positions: Positions = "last",
    whole_values: bool = False,
    lens: TunedLens | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> LensResult:
    """Read every layer, for every form of the answer.

    With `attn_out` or `mlp_out` it is what that layer's attention or MLP alone writes that is read, scaled by the norm as
    if it were the whole stream; no layer of these equals the model's output.

    Args:
        model: Hooked model.
        probes: Prompts to read.
        languages: Languages whose forms are looked up; all that the probes have by default.
        component: What is read.
        positions: The position that predicts the answer, or all of the prompt.
        whole_values: Whether to read whole forms too, each forced, token by token: a forward pass per form.
        lens: Translators from `train_tuned_lens`; the raw lens without.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        LensResult; the last layer of `resid_post` is the model's own output.

    Raises:
        ValueError: No probes, or none left after collisions; an unknown component, position or language; a lens that is not a
            `TunedLens`, is of another model, or is to read another component than `resid_post`.
    """
    check_choice("component", component, Component)
    check_choice("positions", positions, Positions)
    _check_lens(model, lens, component)
    backend, planted = backend_of(model), plant_language(model)
    encoded, clear = encode_with_forms(backend, probes, languages=languages, plant_language=planted)
    task = LensTask(
        component=component,
        positions=positions,
        lens=lens,
        own_tokens=language_tokens(backend, clear),
        plant_language=planted,
        batch_size=batch_size,
        progress=progress,
    )
    readings, failed = _read(backend, task, clear)
    values, failed_whole = _read(backend, replace(task, own_tokens=None), encoded) if whole_values else (None, ())
    return LensResult(
        readings=readings,
        values=values,
        n_collisions=len(encoded) - len(clear),
        failed=tuple(dict.fromkeys(failed + failed_whole)),
        plant_language=planted,
        component=component,
        positions=positions,
        lens="tuned" if lens else "raw",
        provenance=provenance(model),
    )


def _read(backend: Backend, task: LensTask, items: Sequence[EncodedProbe]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return rows in the order of the probes, and the ids of those that failed every time."""
    outputs = run_task(backend, task, items)
    frame = pd.concat([output["rows"] for output in outputs], ignore_index=True)
    return in_order(frame, "probe", [item.id for item in items]), outputs.failed


def _check_lens(model: Any, lens: TunedLens | None, component: Component) -> None:
    if lens is None:
        return
    if not isinstance(lens, TunedLens):
        raise ValueError(f"lens must be a TunedLens, not {lens!r}; make one with train_tuned_lens or TunedLens.load")
    if component != "resid_post":
        raise ValueError(f"a tuned lens reads resid_post, not {component!r}; leave lens out")
    lens.check_fits(model)
