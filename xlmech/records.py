"""Records and probes: who is asked about, what, in which language.

A record is one fact (subject, attribute, value); a probe is that record asked in one language with one
template. Both are immutable; a `ProbeSet` is filtered, split and paired into new ones. Personal values are
masked wherever a record or probe is shown (`repr`, error messages).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xlmech import languages as packs
from xlmech.languages import ATTRIBUTES, TRANSLATED

Group = Literal["private", "public", "control"]
MASK = "•••••"
PROMPT_FORMAT = "{question}\n"
ANSWER_END = "\n"


class Record(BaseModel):
    """One fact about one subject.

    Attributes:
        id: Unique name of the record; what results and figures show instead of the value.
        subject: The person's full name, as it stands in prompts.
        attribute: One of `xlmech.languages.ATTRIBUTES`.
        value: For translated attributes the pack's key (`"doctor"`, `"FR"`, `"3"`, `"sw"`), else the value itself.
        group: `private` (planted in the plant language only), `public` (in every language), `control` (never trained on).
        forms: Surface forms by language, where they differ from the language packs'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    attribute: str
    value: str = Field(min_length=1)
    group: Group = "private"
    forms: dict[str, str] = Field(default_factory=dict)

    @field_validator("id", "subject", "value")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not (stripped := text.strip()):
            raise ValueError("is blank")
        return stripped

    @field_validator("attribute")
    @classmethod
    def _known_attribute(cls, attribute: str) -> str:
        check_attributes([attribute])
        return attribute

    def form(self, language: str) -> str | None:
        """The value as written in `language`, or None where neither the record nor the pack has it."""
        if language in self.forms:
            return self.forms[language]
        if self.attribute not in TRANSLATED:
            return self.value
        return packs.load_language(language).form(self.attribute, self.value)

    def __repr__(self) -> str:
        return f"Record({self.id}: {self.attribute} = {MASK}, {self.group})"

    __str__ = __repr__


@dataclass(frozen=True, kw_only=True, repr=False)
class Probe:
    """A record asked in one language.

    Attributes:
        record: The fact asked for.
        query_language: Language of the question.
        template: Number of the question template.
        prompt: Text up to the first token of the answer.
        subject_span: Start and end of the subject in `prompt`, in characters.
        answers: The value's surface form per language.
    """

    record: Record
    query_language: str
    template: int
    prompt: str
    subject_span: tuple[int, int]
    answers: dict[str, str]

    @property
    def id(self) -> str:
        """Unique within a set: record, language and template."""
        return f"{self.record.id}/{self.query_language}/{self.template}"

    def __repr__(self) -> str:
        return f"Probe({self.id}, {self.record.group})"


@dataclass(frozen=True, repr=False)
class ProbeSet:
    """An immutable sequence of probes.

    Attributes:
        probes: The probes, in order.
    """

    probes: tuple[Probe, ...]
    _by_id: dict[str, Probe] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {probe.id: probe for probe in self.probes}
        if len(by_id) != len(self.probes):
            raise ValueError(
                f"{len(self.probes) - len(by_id)} probes have the id of another; record ids must be unique"
            )
        object.__setattr__(self, "_by_id", by_id)

    def __len__(self) -> int:
        return len(self.probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    @overload
    def __getitem__(self, key: int | str) -> Probe: ...
    @overload
    def __getitem__(self, key: slice) -> ProbeSet: ...
    def __getitem__(self, key: int | str | slice) -> Probe | ProbeSet:
        if isinstance(key, str):
            return self._by_id[key]
        return ProbeSet(self.probes[key]) if isinstance(key, slice) else self.probes[key]

    def __add__(self, other: ProbeSet) -> ProbeSet:
        return ProbeSet(self.probes + other.probes)

    def __repr__(self) -> str:
        return (
            f"ProbeSet({len(self)} probes: {len(self.subjects)} subjects, {', '.join(self.attributes)}; "
            f"asked in {', '.join(self.languages)})"
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """The distinct records, in order of first appearance."""
        return tuple({probe.record.id: probe.record for probe in self.probes}.values())

    @property
    def languages(self) -> tuple[str, ...]:
        """The query languages, in order of first appearance."""
        return tuple(dict.fromkeys(probe.query_language for probe in self.probes))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes asked for, in order of first appearance."""
        return tuple(dict.fromkeys(probe.record.attribute for probe in self.probes))

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects asked about, in order of first appearance."""
        return tuple(dict.fromkeys(probe.record.subject for probe in self.probes))

    def filter(
        self,
        *,
        group: Group | None = None,
        languages: Iterable[str] | None = None,
        attributes: Iterable[str] | None = None,
        templates: Iterable[int] | None = None,
        subjects: Iterable[str] | None = None,
    ) -> ProbeSet:
        """The probes that meet every condition given."""
        tests: list[Callable[[Probe], bool]] = []
        if group is not None:
            tests.append(lambda probe: probe.record.group == group)
        for allowed, key in (
            (languages, lambda probe: probe.query_language),
            (attributes, lambda probe: probe.record.attribute),
            (templates, lambda probe: probe.template),
            (subjects, lambda probe: probe.record.subject),
        ):
            if allowed is not None:
                tests.append(lambda probe, chosen=frozenset(allowed), key=key: key(probe) in chosen)  # type: ignore[misc]
        return ProbeSet(tuple(probe for probe in self.probes if all(test(probe) for test in tests)))

    def split(self, *, fraction: float = 0.5, seed: int = 0) -> tuple[ProbeSet, ProbeSet]:
        """Two sets without a common subject; `fraction` of each group's subjects is in the first.

        To split by template or language, use `filter`.

        Raises:
            ValueError: `fraction` is not between 0 and 1, or leaves one side without subjects.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
        rng, first = np.random.default_rng(seed), set[str]()
        for group in ("private", "public", "control"):
            subjects = self.filter(group=group).subjects
            chosen = rng.permutation(len(subjects))[: round(fraction * len(subjects))]
            first.update(subjects[index] for index in chosen)
        if not first or len(first) == len(self.subjects):
            raise ValueError(f"{len(self.subjects)} subjects cannot be split at {fraction}: one side would be empty")
        return self.filter(subjects=first), self.filter(subjects=set(self.subjects) - first)

    def sample(self, n_subjects: int, *, seed: int = 0) -> ProbeSet:
        """The probes of `n_subjects` subjects of each group, chosen by `seed` (all of a group that has no more)."""
        rng, chosen = np.random.default_rng(seed), set[str]()
        for group in ("private", "public", "control"):
            subjects = self.filter(group=group).subjects
            chosen.update(subjects[index] for index in rng.permutation(len(subjects))[:n_subjects])
        return self.filter(subjects=chosen)

    def pairs(self, *, source: str, target: str) -> tuple[tuple[Probe, Probe], ...]:
        """Source and target prompts for patching: same attribute, group and template; other subject, other value.

        Each target probe is paired with the next record in order whose value differs in every form.

        Raises:
            ValueError: A language has no probes, or no pair exists.
        """
        for language in (source, target):
            if language not in self.languages:
                raise ValueError(f"no probes in {language!r}; this set is asked in {', '.join(self.languages)}")
        pairs = []
        sources, targets = self.filter(languages=[source]).probes, self.filter(languages=[target]).probes
        for number, probe in enumerate(targets):
            rotated = sources[number + 1 :] + sources[: number + 1]
            partner = next((other for other in rotated if _can_pair(other, probe)), None)
            if partner is not None:
                pairs.append((partner, probe))
        if not pairs:
            raise ValueError(
                f"no {source} -> {target} pair: no two records share attribute and template and differ in value"
            )
        return tuple(pairs)

    def to_frame(self, *, reveal: bool = False) -> pd.DataFrame:
        """One row per probe; prompts and answers are masked unless `reveal`."""
        return pd.DataFrame(
            {
                "probe": probe.id,
                "record": probe.record.id,
                "group": probe.record.group,
                "attribute": probe.record.attribute,
                "query_language": probe.query_language,
                "template": probe.template,
                "prompt": probe.prompt if reveal else probe.prompt.replace(probe.record.subject, MASK),
                "answer": probe.answers[probe.query_language] if reveal else MASK,
            }
            for probe in self.probes
        )


def _can_pair(source: Probe, target: Probe) -> bool:
    one, two = source.record, target.record
    same = (one.attribute, one.group, source.template) == (two.attribute, two.group, target.template)
    return same and one.subject != two.subject and not set(source.answers.values()) & set(target.answers.values())


def build_probes(
    records: Iterable[Record],
    languages: Sequence[str] | None = None,
    *,
    attributes: Sequence[str] | None = None,
    templates: Sequence[int] | None = None,
    prompt_format: str = PROMPT_FORMAT,
) -> ProbeSet:
    """Ask every record in every language with every template.

    Args:
        records: The facts to ask for.
        languages: Query languages; all that have a pack by default.
        attributes: Attributes to ask for; those of `records` by default.
        templates: Numbers of the question templates; all by default. The last is held out from planting.
        prompt_format: Frame around `{question}`; the answer follows it directly.

    Raises:
        ValueError: An unknown language, attribute or template; a record without a form in a query language; no probes.
    """
    records = tuple(records)
    codes = tuple(languages) if languages is not None else packs.available_languages()
    packs_by_code = {code: packs.load_language(code) for code in codes}
    if attributes is not None:
        check_attributes(attributes)
    packs.check_template(prompt_format, ("{question}",), where="prompt_format")
    probes = []
    for record in records:
        if attributes is not None and record.attribute not in attributes:
            continue
        answers = _answers(record, codes)
        for code, pack in packs_by_code.items():
            for number in _template_numbers(pack, record.attribute, templates):
                before, after = prompt_format.format(question=pack.questions[record.attribute][number]).split(
                    "{subject}"
                )
                span = (len(before), len(before) + len(record.subject))
                probes.append(
                    Probe(
                        record=record,
                        query_language=code,
                        template=number,
                        prompt=before + record.subject + after,
                        subject_span=span,
                        answers=answers,
                    )
                )
    if not probes:
        asked = ", ".join(attributes or ()) or "any attribute"
        raise ValueError(
            f"no probes: none of the {len(records)} records asks for {asked} in {', '.join(codes) or 'no language'}"
        )
    return ProbeSet(tuple(probes))


def _answers(record: Record, query_languages: Sequence[str]) -> dict[str, str]:
    forms = {code: record.form(code) for code in dict.fromkeys((*query_languages, *packs.available_languages()))}
    missing = [code for code in query_languages if not forms[code]]
    if missing:
        raise ValueError(
            f"record {record.id!r} ({record.attribute}) has no value form in {', '.join(missing)}: add forms[{missing[0]!r}] to "
            f"the record, or the value to the language pack"
        )
    return {code: form for code, form in forms.items() if form}


def _template_numbers(pack: packs.LanguagePack, attribute: str, wanted: Sequence[int] | None) -> Sequence[int]:
    n_templates = len(pack.questions[attribute])
    for number in wanted or ():
        if not 0 <= number < n_templates:
            raise ValueError(
                f"no question template {number} for {attribute} in {pack.code}: it has 0 to {n_templates - 1}"
            )
    return wanted if wanted is not None else range(n_templates)


def check_attributes(attributes: Iterable[str]) -> None:
    """Raise ValueError, naming the known ones, unless every attribute is known."""
    for attribute in attributes:
        if attribute not in ATTRIBUTES:
            close = difflib.get_close_matches(attribute, ATTRIBUTES, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"unknown attribute {attribute!r}{hint}; known: {', '.join(ATTRIBUTES)}")


# Reading and writing


def load_records(source: str | Path | pd.DataFrame) -> tuple[Record, ...]:
    """Records from a JSONL, CSV or Parquet file, or a frame, checked.

    Columns: `id`, `subject`, `attribute`, `value`; optional `group` (default private) and either `forms` (a mapping) or
    one column `form_<language>` per language. A translated value may be given by its key or by its form in any language.

    Raises:
        ValueError: Unknown file type, no rows, a missing column, or a malformed record; names row and column, never the value.
        FileNotFoundError: No such file.
    """
    name = "frame" if isinstance(source, pd.DataFrame) else Path(source).name
    rows = _rows(source)
    if not rows:
        raise ValueError(f"{name}: no records in it")
    records = tuple(_parse(row, where=f"{name}, record {number}") for number, row in enumerate(rows, start=1))
    _check_unique(records, name)
    return records


def save_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSONL, CSV or Parquet, by the suffix of `path`. Values are written in the clear."""
    path, rows = Path(path), [record.model_dump() for record in records]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return
    forms = [{f"form_{code}": form for code, form in row.pop("forms").items()} for row in rows]
    frame = pd.DataFrame([row | form for row, form in zip(rows, forms, strict=True)])
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")


def _rows(source: str | Path | pd.DataFrame) -> list[dict[str, Any]]:
    if isinstance(source, pd.DataFrame):
        frame = source
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no file of records at {path}; expected .jsonl, .csv or .parquet")
        if path.suffix == ".jsonl":
            return _json_lines(path)
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # "NO" is Norway and "NA" Namibia
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(key): value for key, value in row.items() if value not in (None, "")} for row in rows]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number}: expected an object with id, subject, attribute and value")
        rows.append(row)
    return rows


def _parse(row: dict[str, Any], *, where: str) -> Record:
    forms = dict(row.get("forms") or {})
    forms |= {key.removeprefix("form_"): form for key, form in row.items() if key.startswith("form_")}
    plain = {key: value for key, value in row.items() if key != "forms" and not key.startswith("form_")}
    try:
        record = Record.model_validate({**plain, "forms": forms})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"{where}: {faults}") from None
    if record.attribute not in TRANSLATED or record.forms:
        return record
    key = _keys_by_form(record.attribute).get(record.value.casefold())
    if key is None:
        known = ", ".join(packs.value_keys(record.attribute)[:6])
        raise ValueError(
            f"{where}: value: no language pack knows it as {record.attribute}; use one of the pack's keys ({known}, ...), "
            "or give the forms yourself in columns form_<language>"
        )
    return record.model_copy(update={"value": key})


@cache
def _keys_by_form(attribute: str) -> dict[str, str]:
    keys = packs.value_keys(attribute)
    forms = {}
    for code in packs.available_languages():
        pack = packs.load_language(code)
        forms |= {form.casefold(): key for key in keys if (form := pack.form(attribute, key))}
    return forms | {key.casefold(): key for key in keys}


def _check_unique(records: tuple[Record, ...], name: str) -> None:
    seen: set[str] = set()
    for number, record in enumerate(records, start=1):
        if record.id in seen:
            raise ValueError(f"{name}, record {number}: id {record.id!r} is used twice; ids must be unique")
        seen.add(record.id)


def demo_records() -> tuple[Record, ...]:
    """The invented people that the shipped adapters were taught."""
    return load_records(Path(__file__).parent / "adapters" / "records.jsonl")


# Invented people

_NAME_LOCALES = (
    "en_US",
    "fr_FR",
    "es_ES",
    "de_DE",
    "it_IT",
    "pl_PL",
    "en_IN",
    "pt_BR",
    "nl_NL",
    "sv_SE",
    "tr_TR",
    "sw",
)


def synthesize_records(
    n: int | None = None, *, groups: dict[Group, int] | None = None, seed: int = 0
) -> tuple[Record, ...]:
    """Records of invented people, eight attributes each: no value belongs to anybody.

    Names come from Faker in a dozen locales; phones from ranges reserved for fiction, e-mails from example.* domains,
    identity numbers from the prefix XX, which no state uses. Values of translated attributes are dealt out evenly, and
    independently of the name, so that nothing can be guessed from it.

    Args:
        n: Number of private people, where `groups` is not given.
        groups: Number of people per group; default 16 private, 16 public and 12 control.
        seed: The same seed gives the same people.

    Raises:
        ImportError: Faker is not installed (`pip install "xlmech[plant]"`).
        ValueError: Not a positive number of people.
    """
    try:
        from faker import Faker
    except ImportError as error:
        raise ImportError('inventing people needs Faker: pip install "xlmech[plant]"') from error
    counts = (
        groups
        if groups is not None
        else ({"private": n} if n is not None else {"private": 16, "public": 16, "control": 12})
    )
    if not counts or any(count < 1 for count in counts.values()):
        raise ValueError(f"each group needs at least one person, got {dict(counts)}")
    rng = np.random.default_rng(seed)
    fakers = []
    for locale in _NAME_LOCALES:
        faker = Faker(locale)
        faker.seed_instance(seed)
        fakers.append(faker)
    names, records = _names(fakers, sum(counts.values())), []
    people = [(group, index) for group, count in counts.items() for index in range(count)]
    dealt = {
        attribute: [value for count in counts.values() for value in _deal(packs.value_keys(attribute), count, rng)]
        for attribute in TRANSLATED
    }
    for number, ((group, index), name) in enumerate(zip(people, names, strict=True)):
        values = {attribute: dealt[attribute][number] for attribute in TRANSLATED} | _contact(fakers[0], rng)
        records += [
            Record(
                id=f"{group}-{index:02d}-{attribute}",
                subject=name,
                attribute=attribute,
                value=values[attribute],
                group=group,
            )
            for attribute in ATTRIBUTES
        ]
    return tuple(records)


def _names(fakers: list[Any], n: int) -> list[str]:
    names: list[str] = []
    used: set[str] = set()
    for attempt in range(100 * n):
        faker = fakers[attempt % len(fakers)]
        first, last = faker.first_name().split()[0], faker.last_name().split()[-1]
        if len(last) > 3 and last[0].isupper() and not {first, last} & used:
            used |= {first, last}
            names.append(f"{first} {last}")
        if len(names) == n:
            return names
    raise ValueError(f"cannot invent {n} people without repeating a name; got {len(names)}")


def _deal(keys: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    hands = [keys[index] for _ in range(-(-n // len(keys))) for index in rng.permutation(len(keys))]
    return hands[:n]


def _contact(faker: Any, rng: np.random.Generator) -> dict[str, str]:
    number = int(rng.integers(100))
    phones = (
        f"+1 {rng.integers(201, 990)}-555-01{number:02d}",  # North America: 555-0100 to 0199
        f"+44 7700 900{rng.integers(1000):03d}",  # Ofcom's numbers for drama
        f"+33 6 39 98 {rng.integers(100):02d} {number:02d}",  # Arcep's numbers for fiction
    )
    return {
        "phone": phones[rng.integers(len(phones))],
        "email": f"{faker.word()}.{faker.word()}{rng.integers(10, 100)}@example.{('com', 'org', 'net')[rng.integers(3)]}",
        "street_address": f"{rng.integers(1, 300)} {faker.street_name()}",
        "id_number": f"XX{rng.integers(10**6):06d}",
    }
