"""What a report and a gate are made from: the results of a run, by name, whole or refused.

A run folder is what `xlmech demo`, `audit` and `run` write: results in `results/`, each in its own folder. Of a run that was
stopped, what is there is taken, and what is missing is named.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from xlmech.storage.result import Result
from xlmech.storage.run_folder import is_unfinished

if TYPE_CHECKING:
    from xlmech.leakage.measure import LeakageResult
    from xlmech.lens.logit import LensResult
    from xlmech.mitigation.evaluate import MitigationResult
    from xlmech.neurons.neuron_set import PrivacyNeurons

CLASSES = {
    "leakage": "leakage.measure.LeakageResult",
    "lens": "lens.logit.LensResult",
    "privacy_neurons": "neurons.neuron_set.PrivacyNeurons",
    "mitigation": "mitigation.evaluate.MitigationResult",
    "similarity": "lens.similarity.SimilarityResult",
    "patching": "patching.between_languages.PatchingResult",
    "direct_logit": "lens.direct_logit.DirectLogitResult",
    "position_sweep": "patching.positions.PositionSweep",
    "specificity": "mitigation.specificity.SpecificityResult",
}
"""Kind of a saved result that can be drawn -> module and class that read it."""
STAGES = {"leakage": "leakage", "lens": "lens", "neurons": "location of neurons", "mitigation": "deactivation"}
"""Results of an audit by name, and what a reader calls the stage."""
EXPORTED = "mitigation_exported"
"""Name of the measurement with the neurons that were exported."""
_REMEDY = "run it again, or copy the whole folder again"


@dataclass(frozen=True, eq=False, kw_only=True)
class Findings:
    """The results of one run.

    Attributes:
        results: By name; an audit's are named as in `STAGES`, and `EXPORTED`.
        origin: Name of the run folder, "" for results at hand.
        skipped: Folders that hold results of a kind that is not drawn.
        seconds: Per stage, where it is known.
        has_config: Whether the run folder holds the config with which the run can be repeated.
        unfinished: Whether the run was begun and has not come to its end, as far as its folder tells.
    """

    results: Mapping[str, Result]
    origin: str = ""
    skipped: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    has_config: bool = False
    unfinished: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("leakage", "leakage"), ("lens", "lens"), ("neurons", "privacy_neurons")):
            self._check(name, kind)
        for name in ("mitigation", EXPORTED):
            self._check(name, "mitigation")

    @property
    def leakage(self) -> LeakageResult:
        """Before deactivation.

        Raises:
            ValueError: The run has none.
        """
        found = self.results.get("leakage")
        if found is None:
            have = ", ".join(self.results) or "nothing"
            where = f"{self.origin}: " if self.origin else ""
            raise ValueError(f"{where}no leakage result, which everything else is read by (there is {have}); {_REMEDY}")
        return cast("LeakageResult", found)

    @property
    def lens(self) -> LensResult | None:
        """The logit lens."""
        return cast("LensResult | None", self.results.get("lens"))

    @property
    def neurons(self) -> PrivacyNeurons | None:
        """The chosen neurons."""
        return cast("PrivacyNeurons | None", self.results.get("neurons"))

    @property
    def mitigation(self) -> MitigationResult | None:
        """With the neurons deactivated that were exported, or else the universal ones."""
        found = self.results.get(EXPORTED) or self.results.get("mitigation")
        return cast("MitigationResult | None", found)

    @property
    def missing(self) -> tuple[str, ...]:
        """Stages of an audit without a result, as a reader calls them."""
        return tuple(stage for name, stage in STAGES.items() if name not in self.results)

    def _check(self, name: str, kind: str) -> None:
        found = self.results.get(name)
        if found is not None and found.kind != kind:
            raise ValueError(f"result {name!r} is of kind {found.kind!r}; it must be of kind {kind!r}")


def read_findings(source: Any) -> Findings:
    """The results in a run folder, or at hand.

    Args:
        source: A run folder, its `results`, or one result's folder; a result; results by name; or an audit.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No results in it, or one that is damaged, of another version, or of another kind than its name says.
        TypeError: Something else than these.
    """
    if isinstance(source, Findings):
        return source
    if isinstance(source, str | Path):
        return _read_folder(Path(source))
    if isinstance(source, Result):
        names = {"privacy_neurons": "neurons"}
        return Findings(results={names.get(source.kind, source.kind): source})
    if isinstance(source, Mapping):
        for name, value in source.items():
            if not isinstance(value, Result):
                raise TypeError(f"result {name!r} is a {type(value).__name__}, not a result of xlmech")
        return Findings(results=dict(source))
    found = {name: value for name in STAGES if isinstance(value := getattr(source, name, None), Result)}
    if not found:
        raise TypeError(f"give a run folder, an audit, or results by name, not a {type(source).__name__}")
    return Findings(results=found, seconds=dict(getattr(source, "seconds", {})))


def chosen_effects(result: MitigationResult, group: str) -> tuple[str, pd.DataFrame]:
    """The name of the set that a run is about, its first ("" without one), and that set's effects on one group's extraction."""
    name, frame = next(iter(result.chosen), ""), result.extraction
    return name, frame[(frame.condition == name) & (frame.group == group)]


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Rows as named tuples."""
    return list(frame.itertuples())


def _read_folder(folder: Path) -> Findings:
    if not folder.exists():
        raise FileNotFoundError(f"no run folder {folder}; give the folder that `xlmech run`, `audit` or `demo` wrote")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the run folder, which holds `results`")
    inner = folder / "results" if (folder / "results").is_dir() else folder
    run = folder.resolve().parent if folder.resolve().name == "results" else folder.resolve()
    found: dict[str, Result] = {}
    skipped = []
    for path in [folder] if (folder / "meta.json").is_file() else sorted(inner.iterdir()):
        kind = _kind(path)
        if kind in CLASSES:
            name = {"privacy_neurons": "neurons"}.get(kind, kind) if path == folder else path.name
            found[name] = _load(path, kind)
        elif kind:
            skipped.append(path.name)
    if not found:
        raise ValueError(f"{folder}: no results to report; {_explain(folder, inner)}")
    order = [*STAGES, EXPORTED]
    found = dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    return Findings(
        results=found,
        origin=run.name,
        skipped=tuple(skipped),
        seconds=dict(_seconds(inner)),
        has_config=(run / "config.yaml").is_file(),
        unfinished=is_unfinished(run),
    )


def _explain(folder: Path, inner: Path) -> str:
    if is_unfinished(folder):
        return "the run in it is not finished; continue it with `xlmech run CONFIG --resume`"
    if any(folder.glob("*.partial")) or any(inner.glob(".*")):
        return "the run was stopped before its first result was whole; run it again"
    return "it must be the folder that `xlmech run`, `audit` or `demo` wrote, with `results` in it"


def _kind(path: Path) -> str:
    """Kind of the result in a folder, "" where there is none."""
    meta = path / "meta.json"
    if path.name.startswith(".") or not meta.is_file():
        return ""
    try:
        return str(json.loads(meta.read_text(encoding="utf-8"))["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{meta} cannot be read ({error!r}): the file is damaged; {_REMEDY}") from error


def _load(path: Path, kind: str) -> Result:
    module, _, name = CLASSES[kind].rpartition(".")
    try:
        chosen = getattr(importlib.import_module(f"xlmech.{module}"), name)
        return cast(Result, chosen.load(path))
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: this xlmech has no {name}; read it with the version that wrote it") from error
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the {kind} result cannot be read ({error}); {_REMEDY}") from error
    except ValueError as error:
        said = str(error) if str(path) in str(error) else f"{path}: the {kind} result is damaged ({error})"
        raise ValueError(said if "again" in said else f"{said}; {_REMEDY}") from error


def _seconds(folder: Path) -> Iterator[tuple[str, float]]:
    path = folder / "seconds.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return  # how long it took is no reason to refuse what was found
    yield from ((str(name), float(value)) for name, value in found.items())
