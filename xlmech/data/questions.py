"""Build probes: ask every record in every language, with the question templates of the language packs or of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xlmech.checks import check_choices, check_list, hint
from xlmech.data import languages as packs
from xlmech.data.attributes import Attribute, all_attributes, unknown_attribute
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.prompt_format import TEXT, PromptFormat, named_format
from xlmech.data.records import Record, record_list


def build_probes(
    records: Iterable[Record],
    languages: Sequence[str] | None = None,
    *,
    attributes: Sequence[str] | None = None,
    kinds: Iterable[Attribute] = (),
    templates: Sequence[int] | None = None,
    prompt: str | PromptFormat = "plain",
) -> ProbeSet:
    """Ask every record in every language with every template.

    A record's own question (`Record.questions`) goes before its kind's, and that before the language pack's. A record with a
    training text in a language (`Record.prompts`) is asked there with that text alone, without the prompt format.

    Args:
        records: The facts to ask for.
        languages: Query languages; all that have a pack by default.
        attributes: Attributes to ask for; those of `records` by default.
        kinds: Kinds of data beside those that xlmech knows.
        templates: Numbers of the question templates; all by default. The last is held out from planting.
        prompt: Format of the prompts: `plain` (the question and a newline), `qa` ("Question: ..." and "Answer:"), a text with
            `{question}` that the answer follows directly, or what `prompt_format` returns for a model, such as its chat format.

    Raises:
        ValueError: An unknown attribute, template or prompt format; a language without a question for a record's attribute; a
            record without a form in a query language; no probes.
    """
    records = record_list(records)
    known = all_attributes(kinds)
    codes = check_list("language", languages) if languages is not None else packs.available_languages()
    answer_languages = dict.fromkeys((*codes, *packs.available_languages()))
    if attributes is not None:
        attributes = check_choices("attribute", attributes, dict.fromkeys((*known, *(r.attribute for r in records))))
    if twice := [code for number, code in enumerate(codes) if code in codes[:number]]:
        raise ValueError(f"language {twice[0]!r} is listed twice; list each once")
    asked_by_data = {code for record in records for code in (*record.questions, *record.prompts)}
    asked_by_data |= {code for kind in known.values() for code in kind.questions}
    for code in codes:
        if code not in asked_by_data:
            packs.check_language(code)
    if templates is not None:
        templates = check_list("template", templates)
        if not all(hasattr(number, "__index__") for number in templates):
            raise ValueError("templates: expected numbers, counted from 0; give a list such as [0, 1]")
    frame = named_format(prompt)
    probes = []
    for record in records:
        if attributes is not None and record.attribute not in attributes:
            continue
        kind = _kind_of(record, known)
        if listed := kind.values.get(record.value):
            record = record.model_copy(update={"forms": {**listed, **record.forms}})
        answers = _answers(record, codes, dict.fromkeys((*answer_languages, *record.forms)))
        for code in codes:
            line_format = TEXT if code in record.prompts else frame
            lines = (record.prompts[code],) if code in record.prompts else _questions(record, kind, code)
            for number in range(len(lines)) if templates is None else templates:
                if not 0 <= number < len(lines):
                    raise ValueError(
                        f"no question template {number} for {record.attribute} in {code}: it has 0 to {len(lines) - 1}"
                    )
                text, (start, end) = _filled(lines[number], record.subject)
                before = len(line_format.edges[0]) if end else 0
                probes.append(
                    Probe(
                        record=record,
                        query_language=code,
                        template=number,
                        prompt=line_format.ask(text),
                        subject_span=(start + before, end + before),
                        answers=answers,
                        kind=kind,
                        format=line_format,
                    )
                )
    if not probes:
        wanted = ", ".join(attributes or ()) or "any attribute"
        raise ValueError(
            f"no probes: none of the {len(records)} records asks for {wanted} in {', '.join(codes) or 'no language'}"
        )
    return ProbeSet(tuple(probes))


def with_format(probes: ProbeSet, frame: PromptFormat) -> ProbeSet:
    """Return the same questions in another prompt format; training texts stay as they are.

    Raises:
        ValueError: A prompt is not in the format that its probe names.
    """
    return ProbeSet(tuple(probe if probe.format == TEXT else _with_format(probe, frame) for probe in probes))


def _with_format(probe: Probe, frame: PromptFormat) -> Probe:
    prompt = frame.ask(probe.format.question_of(probe.prompt))
    moved = len(frame.edges[0]) - len(probe.format.edges[0])
    start, end = probe.subject_span
    return replace(probe, prompt=prompt, subject_span=(start + moved, end + moved), format=frame)


def _kind_of(record: Record, known: Mapping[str, Attribute]) -> Attribute:
    """Return the kind of data that a record has; text that may be guessed where only the record's own questions ask for it."""
    if record.attribute in known:
        return known[record.attribute]
    if not (record.questions or record.prompts):
        raise ValueError(f"record {record.id!r}: {unknown_attribute(record.attribute, known)}")
    return Attribute(name=record.attribute)


def _questions(record: Record, kind: Attribute, code: str) -> Sequence[str]:
    """List the questions that ask for a record in a language."""
    if code in record.questions:
        return (record.questions[code],)
    if questions := kind.questions.get(code) or packs.find_language(code).questions.get(kind.name, ()):
        return questions
    codes = packs.available_languages()
    near = hint(code, codes) if code not in codes else ""
    raise ValueError(
        f"record {record.id!r}: no question asks for {kind.name} in {code!r}{near}; give it in a column question_{code}, or in "
        "the attribute's definition"
    )


def _filled(line: str, subject: str) -> tuple[str, tuple[int, int]]:
    """Fill in the subject; return the text and the subject's span in it, (0, 0) where a training text does not name it."""
    if "{subject}" in line:
        before, after = line.split("{subject}")
        return before + subject + after, (len(before), len(before) + len(subject))
    start = line.find(subject)
    return line, (start, start + len(subject)) if start >= 0 else (0, 0)


def _answers(record: Record, query_languages: Sequence[str], languages: Iterable[str]) -> dict[str, str]:
    """Write the record's value in each language that has a form of it; the query languages need one."""
    forms = {code: record.form(code) for code in languages}
    if missing := [code for code in query_languages if not forms[code]]:
        raise ValueError(
            f"record {record.id!r} ({record.attribute}) has no value form in {', '.join(missing)}: add forms[{missing[0]!r}] to "
            "the record, or the value to the language pack"
        )
    return {code: form for code, form in forms.items() if form}
