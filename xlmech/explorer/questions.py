"""The records of an explorer, and how each is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

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
        self.kinds = tuple(kinds)
        if not self.records:
            raise ValueError("no records to explore; see load_records and demo_records")
        self.languages = packs.available_languages() if languages is None else check_list("language", languages)
        if not self.languages:
            raise ValueError("no languages to ask in; name one at least, or leave them out for all that have a pack")
        asked = {code for one in self.records for code in (*one.questions, *one.prompts)}
        asked |= {code for kind in self.kinds for code in kind.questions}
        for code in self.languages:
            if code not in asked:
                packs.check_language(code)
        wanted = (plant_language, *_FIRST)
        few = tuple(dict.fromkeys(code for code in wanted if code in self.languages))[: len(_FIRST)]
        self.first_languages = few if languages is None else self.languages
        self.frame = frame
        self.plant_language = plant_language
        self._by_id = {record.id: record for record in self.records}
        if len(self._by_id) < len(self.records):
            n_same = len(self.records) - len(self._by_id)
            raise ValueError(
                f"{n_same} of the records have the id of another one, by which the explorer finds them; give each its own"
            )
        self._known: dict[str, tuple[str, ...]] = {}

    def start(self, record: str = "", *, reveal: bool = False) -> ExplorerState:
        """Return the state of a record, asked in the first languages; by default of the first private one that can be asked.

        Raises:
            ValueError: There is no such record, or it can be asked in none of the languages.
        """
        private = (one.id for one in self.records if one.group == "private")
        first = next((name for name in private if self.known_languages(name)), self.records[0].id)
        chosen = self.record(record or first).id
        languages = self.known_languages(chosen, self.first_languages)
        if not languages:
            self.of(chosen, self.first_languages, 0)  # raises, and says what is missing
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
            if one.attribute == own.attribute and one.subject != own.subject and self._differs(one, forms)
        ]
        return [one.id for one in sorted(fitting, key=lambda one: one.group != own.group)]

    def _differs(self, record: Record, forms: frozenset[str]) -> bool:
        """Whether a record can be asked, and no way to write its value is among these."""
        own = self._forms(record)
        return bool(own) and not forms & own

    def _forms(self, record: Record) -> frozenset[str]:
        """Return all ways to write a record's value; none if it can be asked in no language."""
        for code in self.languages:
            with suppress(ValueError):
                return frozenset(self.of(record.id, (code,), 0)[0].answers.values())
        return frozenset()

    def known_languages(self, name: str, wanted: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the languages of an explorer in which a record has a question and a value.

        Args:
            name: Id of the record.
            wanted: Of these alone, unless it can be asked in none of them.

        Returns:
            Their codes; none if it can be asked in no language.
        """
        if name not in self._known:
            self._known[name] = tuple(code for code in self.languages if self.n_templates(name, (code,)))
        known = self._known[name]
        return tuple(code for code in wanted if code in known) or known

    def check(self, state: ExplorerState) -> None:
        """Raise ValueError for a record or a language that the explorer does not have, or a wording that the record has not."""
        self.record(state.record)
        if state.other:
            check_choice("other record", state.other, self.others_of(state.record))
        for code in state.languages:
            check_choice("language", code, self.languages)
        n_templates = self.n_templates(state.record, state.languages)
        if n_templates:
            check_choice("template", state.template, range(n_templates))

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
