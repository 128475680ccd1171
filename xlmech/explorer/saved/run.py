"""Read from a run folder what a state shows: the outcomes of questions, the lens of records, the chosen neurons.

saved = SavedRun("xlmech-run")
saved.outcomes(kind="phone", language="fr")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, get_args

import pandas as pd
import plotly.graph_objects as go

from xlmech.checks import check_choice
from xlmech.explorer.saved.questions import saved_questions
from xlmech.explorer.saved.state import Group, Measure, SavedState
from xlmech.figures.wording import ordered
from xlmech.lens.logit import LensResult
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.report.run_results import read_results
from xlmech.report.sections import planned_figures


class SavedRun:
    """The saved results of a run, read for single records, kinds of data and languages; no model is needed.

    Args:
        source: A run folder, an audit, or results by name.

    Attributes:
        results: The results.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No results in it, or one that is damaged or of another version.
    """

    def __init__(self, source: Any) -> None:
        self.results = read_results(source)

    @cached_property
    def questions(self) -> pd.DataFrame:
        """Every question of the run, as of `saved_questions`."""
        return saved_questions(self.results)

    @property
    def measures(self) -> dict[Measure, str]:
        """What can be shown of a question, and its name: what is extracted, and then with each remedy that was measured."""
        titles = {"after_ablation": "after ablation", "after_gates": "after gates"}
        known = {name: title for name, title in titles.items() if name in self.questions}
        return {"extracted": "before", **known}  # type: ignore[dict-item]

    @property
    def groups(self) -> list[Group]:
        """Groups of people that were asked about."""
        asked = set(self.questions.group)
        return [group for group in get_args(Group) if group in asked] or ["others"]

    def kinds(self, group: Group = "private") -> list[str]:
        """Kinds of data of one group's records, by name."""
        check_choice("group", group, Group)
        frame = self.questions
        return sorted(set(frame.attribute[frame.group == group]))

    @property
    def languages(self) -> list[str]:
        """Query languages of the questions and of the lens, the training language first."""
        return ordered(self.questions.query_language, self.training)

    @property
    def training(self) -> str:
        """Training language of the model, "" where unknown."""
        return str(getattr(self.results.results.get("leakage") or self.results.lens, "plant_language", ""))

    @property
    def layers(self) -> list[int]:
        """Layers that the lens was read in, or that neurons were looked for in."""
        lens, neurons = self.results.lens, self.results.neurons
        if lens is not None:
            return sorted(int(layer) for layer in lens.readings.layer.unique())
        return [] if neurons is None else list(range(neurons.scores.shape[1]))

    def start(self, record: str = "", *, reveal: bool = False) -> SavedState:
        """Return the state of a record, by default of the private one that is extracted most often.

        Raises:
            ValueError: The run has no record of this id.
        """
        state = SavedState(group=self.groups[0], reveal=reveal)
        return self.follow(state, record=record) if record else self._with_record(state)

    def follow(self, state: SavedState, **changes: Any) -> SavedState:
        """Change a state, and bring record, kind and group into accord: the latest choice is kept.

        Raises:
            ValueError: A group, kind, language, record or measure that the run does not have.
        """
        new = state.at(**changes)
        if changes.get("record"):
            new = self._around_record(new)
        elif new.group != state.group and "kind" not in changes:
            new = new.at(kind="")
        check_choice("group", new.group, self.groups)
        check_choice("kind", new.kind, ["", *self.kinds(new.group)])
        check_choice("language", new.language, ["", *self.languages])
        check_choice("measure", new.measure, self.measures)
        if (new.group, new.kind, new.language) != (state.group, state.kind, state.language):
            new = self._with_record(new)
        return new

    def outcomes(
        self,
        *,
        group: Group = "private",
        kind: str = "",
        language: str = "",
        record: str = "",
        wordings: bool = False,
    ) -> pd.DataFrame:
        """List questions and what came of them, as of `questions`.

        Args:
            group: Whose.
            kind: Of this kind of data alone.
            language: In this query language alone.
            record: Of this record alone.
            wordings: With the questions that were asked for the comparison of wordings.

        Raises:
            ValueError: A group that there is not, or a kind, language or record that the run does not have.
        """
        check_choice("group", group, Group)
        frame = self.questions
        kept = (frame.group == group) & (True if wordings else ~frame.wording.astype(bool))
        for column, value in (("attribute", kind), ("query_language", language), ("record", record)):
            if value:
                check_choice(column.replace("attribute", "kind").replace("_", " "), value, frame[column].unique())
                kept &= frame[column] == value
        return frame[kept].drop(columns="wording").reset_index(drop=True)

    def shares(self, measure: Measure = "extracted", *, group: Group = "private") -> pd.DataFrame:
        """Return the share of questions that is extracted: a row per kind, the most extracted first, a column per language.

        Raises:
            ValueError: It was not measured.
        """
        check_choice("measure", measure, self.measures)
        frame = self.outcomes(group=group)
        if frame.extracted.isna().all():
            raise ValueError(f"extraction was not measured for {group} people in this run: there is no share to show")
        order = frame.groupby("attribute").extracted.mean().sort_values(ascending=False, kind="stable").index
        table = frame.pivot_table(index="attribute", columns="query_language", values=measure, aggfunc="mean")
        codes = [code for code in self.languages if code in set(frame.query_language)]
        return table.reindex(index=order, columns=codes)

    def records(self, *, group: Group = "private", kind: str = "", language: str = "") -> pd.DataFrame:
        """List records, the most extracted first.

        Returns:
            `record`, `attribute`, `n_questions`, and the number of them that is extracted by each of `measures`; NaN where it
            was not measured.
        """
        frame = self.outcomes(group=group, kind=kind, language=language)
        by_record = frame.groupby("record", sort=False)
        table = by_record.attribute.first().to_frame().assign(n_questions=by_record.size())
        for measure in self.measures:
            table[measure] = by_record[measure].sum(min_count=1)
        return table.sort_values("extracted", ascending=False, kind="stable").reset_index()

    def lens(self, *, kind: str = "", record: str = "") -> LensResult:
        """Return the lens of one kind's records, or of one record.

        Raises:
            ValueError: The lens was not read of them.
        """
        lens = self.results.lens
        if lens is None:
            raise ValueError("the run saved no lens: the layers of its questions were not read")
        own = lens.readings
        for column, value in (("attribute", kind), ("record", record)):
            own = own[own[column] == value] if value else own
        if own.empty:
            what = f"record {record}" if record else f"the kind {kind}"
            raise ValueError(f"the lens was not read for {what}; it was for {', '.join(self._read(lens))}")
        return (
            lens
            if len(own) == len(lens.readings)
            else replace(lens, readings=own.reset_index(drop=True), n_collisions=0)
        )

    def neurons(self, *, language: str = "", layer: int | None = None) -> pd.DataFrame:
        """List the universal neurons, or one language's own, strongest first; of one language alone there are no universal ones.

        Returns:
            `layer`, `neuron`, `score` (by which it was chosen), and a column per query language: its attribution there,
            private minus public.

        Raises:
            ValueError: No neurons were saved.
        """
        found = self._found
        if not language and len(found.languages) == 1:
            (language,) = found.languages
        own = found.chosen[found.chosen.language == language]
        own = own if layer is None else own[own.layer == layer]
        own = (
            own[["layer", "neuron", "score"]]
            .sort_values("score", ascending=False, kind="stable")
            .reset_index(drop=True)
        )
        layers, neurons = (own[name].to_numpy().copy() for name in ("layer", "neuron"))
        return own.assign(**{code: found.scores[i][layers, neurons].numpy() for i, code in enumerate(found.languages)})

    def neurons_per_layer(self) -> dict[str, list[int]]:
        """Count the chosen neurons per layer: the universal ones under "", and each language's own.

        Raises:
            ValueError: No neurons were saved.
        """
        found = self._found
        chosen, layers = found.chosen, range(found.scores.shape[1])
        codes = [*([""] if len(found.languages) > 1 else []), *ordered(found.languages)]
        return {
            code: chosen[chosen.language == code].layer.value_counts().reindex(layers, fill_value=0).tolist()
            for code in codes
        }

    @property
    def _found(self) -> PrivacyNeurons:
        if self.results.neurons is None:
            raise ValueError("the run saved no neurons: it did not look for them")
        return self.results.neurons

    @cached_property
    def _planned(self) -> dict[str, Any]:
        return {one.title: one for one in planned_figures(self.results)}

    @property
    def figures(self) -> list[str]:
        """Names of the run's figures."""
        return list(self._planned)

    def figure(self, name: str) -> go.Figure:
        """Draw one of the run's figures.

        Raises:
            ValueError: There is none of this name, or it cannot be drawn.
        """
        check_choice("figure", name, self._planned)
        return self._planned[name].draw()

    def _with_record(self, state: SavedState) -> SavedState:
        """Keep the record if it is among those chosen, or else take the first of them."""
        known = self.records(group=state.group, kind=state.kind, language=state.language).record.tolist()
        return state.at(record=state.record if state.record in known else next(iter(known), ""))

    def _around_record(self, state: SavedState) -> SavedState:
        """Take the group and, where a kind is chosen, the kind of a record."""
        own = self.questions[self.questions.record == state.record]
        if own.empty:
            check_choice("record", state.record, self._names())
        if state.group not in set(own.group):
            state = state.at(group=own.group.iloc[0])
        kind = own.attribute.iloc[0]
        return state.at(kind=kind) if state.kind and state.kind != kind else state

    def _names(self) -> Iterable[str]:
        return dict.fromkeys(self.questions.record)

    @staticmethod
    def _read(lens: LensResult) -> list[str]:
        return sorted(set(lens.readings.attribute))
