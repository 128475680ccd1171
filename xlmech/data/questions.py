"""Build probes: ask every record in every language, with the question templates of the language packs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xlmech.checks import check_choices, check_list
from xlmech.data import languages as packs
from xlmech.data.languages import ATTRIBUTES
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.records import Record

PROMPT_FORMAT = "{question}\n"
ANSWER_END = "\n"


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
    codes = check_list("language", languages) if languages is not None else packs.available_languages()
    query_packs = [packs.load_language(code) for code in codes]
    answer_languages = tuple(dict.fromkeys((*codes, *packs.available_languages())))
    if attributes is not None:
        attributes = check_choices("attribute", attributes, ATTRIBUTES)
    if templates is not None:
        templates = check_list("template", templates)
    packs.check_template(prompt_format, ("{question}",), where="prompt_format")
    probes = []
    for record in records:
        if attributes is not None and record.attribute not in attributes:
            continue
        answers = _answers(record, codes, answer_languages)
        for pack in query_packs:
            questions = pack.questions[record.attribute]
            for number in range(len(questions)) if templates is None else templates:
                if not 0 <= number < len(questions):
                    raise ValueError(
                        f"no question template {number} for {record.attribute} in {pack.code}: it has 0 to {len(questions) - 1}"
                    )
                before, after = prompt_format.format(question=questions[number]).split("{subject}")
                probes.append(
                    Probe(
                        record=record,
                        query_language=pack.code,
                        template=number,
                        prompt=before + record.subject + after,
                        subject_span=(len(before), len(before) + len(record.subject)),
                        answers=answers,
                    )
                )
    if not probes:
        wanted = ", ".join(attributes or ()) or "any attribute"
        raise ValueError(
            f"no probes: none of the {len(records)} records asks for {wanted} in {', '.join(codes) or 'no language'}"
        )
    return ProbeSet(tuple(probes))


def _answers(record: Record, query_languages: Sequence[str], languages: Sequence[str]) -> dict[str, str]:
    """Write the record's value in each language that has a form of it; the query languages need one."""
    forms = {code: record.form(code) for code in languages}
    if missing := [code for code in query_languages if not forms[code]]:
        raise ValueError(
            f"record {record.id!r} ({record.attribute}) has no value form in {', '.join(missing)}: add forms[{missing[0]!r}] to "
            "the record, or the value to the language pack"
        )
    return {code: form for code, form in forms.items() if form}
