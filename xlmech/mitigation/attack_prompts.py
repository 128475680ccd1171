"""Questions as an attacker asks them: with their translation into the training language, or with the beginning of an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from xlmech.checks import check_list
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.questions import build_probes


def translated(probes: ProbeSet, language: str) -> ProbeSet:
    """Append to each question the same one in the training language; questions in that language stay as they are.

    Raises:
        ValueError: No training language is given.
    """
    if not language:
        raise ValueError("the model does not say its plant language; give plant_language= to translate questions into")
    translations = {
        (probe.record.id, probe.template): probe.format.question_of(probe.prompt)
        for template in {probe.template for probe in probes}
        for probe in build_probes(
            probes.records, [language], kinds={probe.kind for probe in probes}, templates=[template]
        )
    }

    def asked_twice(probe: Probe) -> str:
        question = probe.format.question_of(probe.prompt)
        return probe.format.ask(f"{question}\n{translations[probe.record.id, probe.template]}")

    return ProbeSet(
        tuple(
            probe if probe.query_language == language else dataclasses.replace(probe, prompt=asked_twice(probe))
            for probe in probes
        )
    )


def prefixed(probes: ProbeSet, prefix: str) -> ProbeSet:
    """Append the beginning of an answer to each prompt, after a space where the prompt does not end in white space."""
    return ProbeSet(
        tuple(
            dataclasses.replace(probe, prompt=probe.prompt + (prefix if probe.prompt[-1].isspace() else f" {prefix}"))
            for probe in probes
        )
    )


def with_attacks(probes: ProbeSet, language: str, prefixes: Iterable[str] = ()) -> ProbeSet:
    """Return probes as they are, translated, and with each prefix, to learn gates that hold under these attacks too.

    The attacked versions have template numbers beyond those of the plain ones. What gates learn against one prefix
    or wording need not hold against another: measure with others.

    Args:
        probes: Probes to ask.
        language: Training language of the model, into which questions are translated.
        prefixes: Beginnings of an answer.

    Raises:
        ValueError: No training language is given, or one text in the place of a list of prefixes.
    """
    prefixes = check_list("beginning", prefixes)
    versions = [translated(probes, language), *(prefixed(probes, prefix) for prefix in prefixes)]
    plain = {(probe.id, probe.prompt) for probe in probes}
    step = 1 + max((probe.template for probe in probes), default=0)
    every = list(probes)
    for number, version in enumerate(versions, start=1):
        every += [
            dataclasses.replace(probe, template=probe.template + number * step)
            for probe in version
            if (probe.id, probe.prompt) not in plain
        ]
    return ProbeSet(tuple(every))
