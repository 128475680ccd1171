"""Read the results of a run, by name; a damaged result is refused.

A run folder is what `xlmech demo`, `audit` and `run` write: results in `results/`, each in its own folder. Of a run that was
stopped, the results that exist are read, and the missing ones are named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd

from xlmech.leakage.measure import LeakageResult
from xlmech.lens.direct_logit import DirectLogitResult
from xlmech.lens.logit import LensResult
from xlmech.lens.similarity import SimilarityResult
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.reduction import pooled_hits, pooled_reduction
from xlmech.mitigation.specificity import SpecificityResult
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.patching.between_languages import PatchingResult
from xlmech.patching.positions import PositionSweep
from xlmech.storage.result import Result
from xlmech.storage.run_folder import is_unfinished

_AUDIT = (LeakageResult, LensResult, PrivacyNeurons, MitigationResult, NeuronGates)
_OTHERS = (SimilarityResult, PatchingResult, DirectLogitResult, PositionSweep, SpecificityResult)
CLASSES: dict[str, type[Result]] = {kind.kind: kind for kind in (*_AUDIT, *_OTHERS)}
"""Class of each kind of saved result that is read."""
STAGES = {"leakage": "leakage", "lens": "lens", "neurons": "location of neurons", "mitigation": "ablation"}
"""Results of an audit by name, and what a reader calls the stage."""
EXPORTED = "mitigation_exported"
"""Name of the measurement with the neurons that were exported."""
WORDINGS = "wordings"
"""Name of the leakage by several wordings or answers per question."""
GATES = "gates"
"""Name of the gates."""
GIVEN, HELD_OUT = "gates_given", "gates_held_out"
"""Names of what the gates do: to given people, from whom they were learned, and to held-out people. Neither says anything about
the other."""
GIVEN_KEPT, HELD_OUT_KEPT = "gates_given_kept", "gates_held_out_kept"
"""Names of what they do to these people's private answers of the kinds that are kept."""
REGIMES = {
    GIVEN: "given people, from whom the gates were learned",
    HELD_OUT: "held-out people, of whom nothing was used",
    GIVEN_KEPT: "given people asked for the kinds of data that are kept",
    HELD_OUT_KEPT: "held-out people asked for the kinds of data that are kept",
}
"""Who was measured with the gates, in words."""
_NAMES = {"privacy_neurons": "neurons"}
"""Name of a result that stands alone, if it is not its kind."""
_KINDS = {
    "leakage": "leakage",
    "lens": "lens",
    "neurons": "privacy_neurons",
    "mitigation": "mitigation",
    EXPORTED: "mitigation",
    WORDINGS: "leakage",
    GATES: "neuron_gates",
    **dict.fromkeys(REGIMES, "mitigation"),
}
_REMEDY = "run it again, or copy the whole folder again"


@dataclass(frozen=True, eq=False, kw_only=True)
class RunResults:
    """The results of one run.

    Attributes:
        results: Results by name; an audit's are named as in `STAGES`, and `EXPORTED`.
        origin: Name of the run folder, "" for results in memory.
        skipped: Folders that hold results of a kind that is not drawn.
        seconds: Per stage, if known.
        has_config: Whether the run folder holds the config with which the run can be repeated.
        unfinished: Whether the run was begun and has not ended, as far as its folder tells.
    """

    results: Mapping[str, Result]
    origin: str = ""
    skipped: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    has_config: bool = False
    unfinished: bool = False

    def __post_init__(self) -> None:
        for name, result in self.results.items():
            if result.kind != _KINDS.get(name, result.kind):
                raise ValueError(f"result {name!r} is of kind {result.kind!r}; it must be of kind {_KINDS[name]!r}")

    @property
    def leakage(self) -> LeakageResult:
        """Leakage before ablation.

        Raises:
            ValueError: The run has none.
        """
        if "leakage" not in self.results:
            names = ", ".join(self.results) or "nothing"
            where = f"{self.origin}: " if self.origin else ""
            raise ValueError(
                f"{where}no leakage result, which everything else is read by (there is {names}); {_REMEDY}"
            )
        return cast(LeakageResult, self.results["leakage"])

    @property
    def wordings(self) -> LeakageResult | None:
        """Leakage by several wordings or answers per question."""
        return cast(LeakageResult | None, self.results.get(WORDINGS))

    @property
    def lens(self) -> LensResult | None:
        """The logit lens."""
        return cast(LensResult | None, self.results.get("lens"))

    @property
    def neurons(self) -> PrivacyNeurons | None:
        """The chosen neurons."""
        return cast(PrivacyNeurons | None, self.results.get("neurons"))

    @property
    def mitigation(self) -> MitigationResult | None:
        """The measurement with the exported neurons ablated, or else those that the audit ablates."""
        result = self.results.get(EXPORTED) or self.results.get("mitigation")
        return cast(MitigationResult | None, result)

    @property
    def gates(self) -> NeuronGates | None:
        """The gates that were measured beside the neurons."""
        return cast(NeuronGates | None, self.results.get(GATES))

    def measured_gates(self, regime: str) -> MitigationResult | None:
        """What the gates do in a regime, a key of `REGIMES`."""
        return cast(MitigationResult | None, self.results.get(regime))

    @property
    def missing(self) -> tuple[str, ...]:
        """Stages of an audit without a result, as a reader calls them."""
        return tuple(stage for name, stage in STAGES.items() if name not in self.results)


def read_results(source: Any) -> RunResults:
    """Read the results in a run folder, or take those in memory.

    Args:
        source: A run folder, its `results`, or one result's folder; a result; results by name; or an audit.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No results in it, or one that is damaged, of another version, or of another kind than its name says.
        TypeError: Something else than these.
    """
    if isinstance(source, RunResults):
        return source
    if isinstance(source, str | Path):
        return _read_folder(Path(source))
    if isinstance(source, Result):
        return RunResults(results={_NAMES.get(source.kind, source.kind): source})
    if isinstance(source, Mapping):
        for name, value in source.items():
            if not isinstance(value, Result):
                raise TypeError(f"result {name!r} is a {type(value).__name__}, not a result of xlmech")
        return RunResults(results=dict(source))
    results = getattr(source, "results", None)
    if not isinstance(results, Mapping) or not results:
        raise TypeError(f"give a run folder, an audit, or results by name, not a {type(source).__name__}")
    return RunResults(results=results, seconds=dict(getattr(source, "seconds", {})))


def chosen_effects(result: MitigationResult, group: str) -> tuple[str, pd.DataFrame]:
    """Return the name of a run's first set ("" without one), and its effects on the extraction of one group."""
    name, frame = next(iter(result.chosen), ""), result.extraction
    return name, frame[(frame.condition == name) & (frame.group == group)]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Extraction of one group over all query languages together, before and after; what is not known is NaN.

    Attributes:
        before: Share of questions.
        after: Share with the neurons ablated or turned down.
        after_low: Lower end of its 95 % interval over people.
        after_high: Upper end.
        reduction: 1 - after/before.
        low: Lower end of its interval.
        high: Upper end.
        n_subjects: People.
    """

    before: float
    after: float
    after_low: float
    after_high: float
    reduction: float
    low: float
    high: float
    n_subjects: int


def chosen_overall(result: MitigationResult, group: str) -> Pooled | None:
    """Return the effects of a run's first set over all query languages together; None where the group was not measured.

    Results of earlier versions hold them per language alone, so intervals are not known.
    """
    name, frame = chosen_effects(result, group)
    if frame.empty:
        return None
    if len(result.overall):
        rows = result.overall[(result.overall.condition == name) & (result.overall.group == group)]
        row: Any = rows.iloc[0]
        return Pooled(**{field: row[field] for field in Pooled.__dataclass_fields__})
    before, after = (hits / frame.n_probes.sum() for hits in pooled_hits(frame))
    nan = float("nan")
    return Pooled(
        before=before, after=after, after_low=nan, after_high=nan, reduction=pooled_reduction(frame), low=nan, high=nan,
        n_subjects=int(frame.n_subjects.max()),
    )  # fmt: skip


def _read_folder(folder: Path) -> RunResults:
    if not folder.exists():
        raise FileNotFoundError(f"no run folder {folder}; give the folder that `xlmech run`, `audit` or `demo` wrote")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the run folder, which holds `results`")
    inner = folder / "results" if (folder / "results").is_dir() else folder
    run = folder.resolve().parent if folder.resolve().name == "results" else folder.resolve()
    results: dict[str, Result] = {}
    skipped = []
    for path in [folder] if (folder / "meta.json").is_file() else sorted(inner.iterdir()):
        kind = _kind(path)
        if kind in CLASSES:
            results[_NAMES.get(kind, kind) if path == folder else path.name] = _load(path, kind)
        elif kind:
            skipped.append(path.name)
    if not results:
        raise ValueError(f"{folder}: no results to report; {_why_empty(folder, inner)}")
    order = {name: i for i, name in enumerate((*STAGES, EXPORTED, GATES, *REGIMES))}
    return RunResults(
        results=dict(sorted(results.items(), key=lambda item: order.get(item[0], len(order)))),
        origin=run.name,
        skipped=tuple(skipped),
        seconds=_seconds(inner / "seconds.json"),
        has_config=(run / "config.yaml").is_file(),
        unfinished=is_unfinished(run),
    )


def _why_empty(folder: Path, inner: Path) -> str:
    if is_unfinished(folder):
        return "the run in it is not finished; continue it with `xlmech run CONFIG --resume`"
    if any(inner.glob(".*")):
        return "the run was stopped before its first result was whole; run it again"
    return "it must be the folder that `xlmech run`, `audit` or `demo` wrote, with `results` in it"


def _kind(path: Path) -> str:
    """Kind of the result in a folder, "" if there is none."""
    meta = path / "meta.json"
    if path.name.startswith(".") or not meta.is_file():
        return ""
    try:
        return str(json.loads(meta.read_text(encoding="utf-8"))["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{meta} cannot be read ({error!r}): the file is damaged; {_REMEDY}") from error


def _load(path: Path, kind: str) -> Result:
    try:
        return CLASSES[kind].load(path)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the {kind} result cannot be read ({error}); {_REMEDY}") from error
    except ValueError as error:
        message = str(error) if str(path) in str(error) else f"{path}: the {kind} result is damaged ({error})"
        raise ValueError(message if "again" in message else f"{message}; {_REMEDY}") from error


def _seconds(path: Path) -> dict[str, float]:
    """Return seconds per stage; none if the file is missing or damaged, which is no reason to refuse the results."""
    try:
        return {name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError):
        return {}
