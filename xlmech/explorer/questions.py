"""The records of an explorer, and how each is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xlmech.checks import check_choice, check_list
from xlmech.data import languages as packs
from xlmech.data.attributes import Attribute
from xlmech.data.pairs import ProbePair
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.questions import build_probes
from xlmech.data.records import Record, record_list
from xlmech.explorer.state import ExplorerState

N_PUBLIC = 4
_FIRST = ("en", "fr", "es", "de", "zh")
"""Languages to begin with, the training language before them, where none are named."""


class Questions:
    """Records, and the probes of a state.

    Attributes:
        records: The records.
        languages: Languages in which they may be asked.
        first_languages: Those to begin with.
        kinds: Kinds of data beside those that xlmech knows.
        frame: Prompt format.
        plant_language: Training language of the model, "" where unknown.
    """

    def __init__(
        self,
        records: Iterable[Record],
        languages: Sequence[str] | None,
        *,
        kinds: Iterable[Attribute],
        frame: PromptFormat,
        plant_language: str,
    ) -> None:
        self.records = record_list(records)
        if not self.records:
            raise ValueError("no records to explore; see load_records and demo_records")
        self.languages = packs.available_languages() if languages is None else check_list("language", languages)
        if not self.languages:
            raise ValueError("no languages to ask in; name one at least, or leave them out for all that have a pack")
        wanted = (plant_language, *_FIRST)
        few = tuple(dict.fromkeys(code for code in wanted if code in self.languages))[: len(_FIRST)]
        self.first_languages = few if languages is None else self.languages
        self.kinds = tuple(kinds)
        self.frame = frame
        self.plant_language = plant_language
        self._by_id = {record.id: record for record in self.records}

    def start(self, record: str = "", *, reveal: bool = False) -> ExplorerState:
        """Return the state of a record, the first private one by default, asked in the first languages."""
        first = next((one for one in self.records if one.group == "private"), self.records[0])
        chosen = self.record(record or first.id).id
        languages = self.first_languages
        source = self.plant_language if self.plant_language in languages else languages[0]
        language = next((code for code in languages if code != source), source)
        return ExplorerState(
            record=chosen,
            other=self.other_of(chosen),
            languages=languages,
            language=language,
            source=source,
            reveal=reveal,
        )

    def record(self, name: str) -> Record:
        """Return a record by its id.

        Raises:
            ValueError: There is none of this id.
        """
        check_choice("record", name, self._by_id)
        return self._by_id[name]

    def other_of(self, name: str) -> str:
        """Return the id of the next record of the same attribute and another person, whose value differs; "" if there is none."""
        return next(iter(self.others_of(name)), "")

    def others_of(self, name: str) -> list[str]:
        """List the ids of records that may be patched with this one's activations, the same group's first."""
        own = self.record(name)
        place, forms = self.records.index(own), self._forms(own)
        around = [*self.records[place + 1 :], *self.records[:place]]
        fitting = [
            one
            for one in around
            if one.attribute == own.attribute and one.subject != own.subject and not forms & self._forms(one)
        ]
        return [one.id for one in sorted(fitting, key=lambda one: one.group != own.group)]

    def _forms(self, record: Record) -> frozenset[str]:
        return frozenset(self.of(record.id, self.languages[:1], 0)[0].answers.values())

    def n_templates(self, name: str, languages: Sequence[str]) -> int:
        """Count the question templates that a record has in each of these languages; 0 if it cannot be asked in one of them."""
        try:
            probes = build_probes([self.record(name)], languages, kinds=self.kinds, prompt=self.frame)
        except ValueError:
            return 0
        return min(sum(probe.query_language == code for probe in probes) for code in languages)

    def probes(self, state: ExplorerState) -> ProbeSet:
        """Ask the record in every language of the state."""
        return self.of(state.record, state.languages, state.template)

    def probe(self, state: ExplorerState) -> Probe:
        """Ask the record in the language that is looked at."""
        return self.of(state.record, (state.language,), state.template)[0]

    def pair(self, state: ExplorerState, source: str = "", target: str = "") -> ProbePair:
        """Pair the record as the source with the other one as the target, in the state's languages by default.

        Raises:
            ValueError: There is no other record.
        """
        if not state.other:
            raise ValueError(
                f"no other record of the kind {self.record(state.record).attribute} has another person and another value: "
                "there is none to patch; give more records"
            )
        first = self.of(state.record, (source or state.source,), state.template)
        second = self.of(state.other, (target or state.language,), state.template)
        return ProbePair(sources=(first[0],), target=second[0])

    def of(self, record: str, languages: Sequence[str], template: int) -> ProbeSet:
        """Ask one record with one wording."""
        return build_probes([self.record(record)], languages, kinds=self.kinds, templates=[template], prompt=self.frame)

    def public(self, state: ExplorerState) -> ProbeSet:
        """Ask for a few public facts of the same attribute in the language that is looked at; may be empty."""
        attribute = self.record(state.record).attribute
        public = [one.id for one in self.records if one.group == "public" and one.attribute == attribute]
        chosen = [name for name in public if name != state.record][:N_PUBLIC]
        return ProbeSet(tuple(probe for name in chosen for probe in self.of(name, (state.language,), state.template)))
