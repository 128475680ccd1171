"""What a report says of its making: method, limits, versions and seeds, how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from xlmech.data.languages import UNGUESSABLE
from xlmech.figures import language_name
from xlmech.report.phrasing import joined, plain
from xlmech.report.run_results import STAGES, Findings


def method(findings: Findings) -> list[str]:
    """How it was measured, with this run's counts."""
    return list(_method(findings))


def _method(findings: Findings) -> Iterator[str]:
    probes = findings.leakage.probes
    counts = ", ".join(
        f"{part.subject.nunique():,} {group} people ({len(part):,} questions)"
        for group, part in probes.groupby("group", sort=False)
    )
    planted = findings.leakage.plant_language
    yield f"Asked: {counts}; kinds of data: {', '.join(map(plain, probes.attribute.unique()))}."
    if planted:
        yield f"The private people's data stood in the model's training text in {language_name(planted)}."
    yield (
        "A value is extracted when the greedy answer contains it in any language's form, after Unicode normalisation and "
        "folding of case and digits; numbers are compared without separators. Word and number boundaries are kept."
    )
    yield (
        "Control people were never in the training text. Their rate, weighed to the private people's kinds of data, is chance "
        "and is taken off; the difference's interval joins the two groups' own (Newcombe 1998). A rate's interval is "
        "Clopper and Pearson's on an effective number of observations, between the number of people and that of their questions. "
        "Whether the groups differ is judged by a permutation test over people, with Holm's correction for the number of "
        f"languages and kinds of data. What cannot be guessed ({joined(map(plain, UNGUESSABLE))}) is a leak when it is extracted "
        "once."
    )
    if findings.lens is not None:
        yield (
            "The lens reads what each layer has so far through the model's own last norm and unembedding, at the token before "
            "the answer (logit lens)."
        )
    if findings.neurons is not None:
        yield (
            f"Neurons are entries of the MLPs' hidden activations, chosen by attribution (rule {findings.neurons.rule!r}) on "
            "people who are not measured here."
        )
    if findings.mitigation is not None:
        yield (
            "Deactivation sets them to zero at every position; reduction is 1 - after/before on the same questions. Public "
            "facts count where they come out in the question's language."
        )


def limits(findings: Findings, absent: Sequence[str]) -> list[str]:
    """What the figures do not tell, and what was not measured or drawn."""
    found = [
        "A rate is of the wordings that were asked and of greedy answers: it is no bound on what sampling, other wordings, "
        "longer dialogues or fine-tuning bring out.",
        "That nothing was extracted from the people asked does not show that nothing can be; see how few people the interval "
        "allows for.",
        "A neuron that is chosen is a hypothesis; that deactivating it helps is shown for the people and languages measured "
        "here alone, and other abilities than those in the cost were not looked at.",
        "What the paper calls privacy neurons is reconstructed here (Dong et al. 2025, arXiv:2506.00759, publishes no formula).",
        "The language packs were not proofread by native speakers.",
    ]
    if (findings.leakage.probes.group != "control").all():
        found.append("No control people were asked, so what is chance is not known.")
    found += [f"Not in this run: {stage}." for stage in findings.missing]
    if findings.skipped:
        found.append(f"Saved in the run, and without a figure here: {', '.join(findings.skipped)}.")
    return found + [f"Not drawn: {line}" for line in absent]


def provenance_table(findings: Findings) -> dict[str, Any]:
    """One row per result: model, versions, seed, command, time."""
    columns = ["result", "model", "adapter", "revision", "weights on", "seed", "versions", "time"]
    rows = []
    for name, result in findings.results.items():
        source = asdict(result.provenance)
        versions = ", ".join(f"{package} {version}" for package, version in source["versions"].items())
        on = " ".join(filter(None, (source["dtype"], source["device"], source["backend"])))
        revision = source["revision"][:12]
        rows.append(
            [
                STAGES.get(name, plain(name)),
                source["model"],
                source["adapter"] or "none",
                revision or "unknown",
            ]
            + [on or "unknown", source["seed"], versions, source["time"]]
        )
    return {"columns": columns, "rows": rows}


def reproduce(findings: Findings) -> list[str]:
    """How to make the results and this page again, with what stands in the run folder; paths of another machine do not help."""
    name = shlex.quote(findings.origin)
    held = f"in the folder that holds the run folder {findings.origin}"
    found = []
    if findings.has_config:
        found.append(
            f"The run again, {held}: xlmech run {name}/config.yaml. It needs the model and the records that config.yaml names, "
            "and an `out` that does not exist."
        )
    else:
        commands = dict.fromkeys(result.provenance.command for result in findings.results.values())
        found += dict.fromkeys(_made_by(command) for command in commands if command)
    if findings.origin:
        found.append(f"This page again, {held}: xlmech report {name}")
    if findings.seconds:
        parts = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in findings.seconds.items())
        found.append(f"It took {sum(findings.seconds.values()):.0f} s ({parts}).")
    found.append(
        "The run folder holds every result as Parquet and safetensors; with the same seed the figures come out alike."
    )
    return found


def _made_by(command: str) -> str:
    """What the process was that measured; a notebook's or a test's arguments name nothing that a reader has."""
    program = command.split(" ")[0]
    if program.removesuffix(".exe") == "xlmech":
        return f"Made by: {command}. Its paths are those of the folder that it was run in."
    if program.endswith(".py") and not program.startswith(("__main__", "ipykernel")):
        return f"Made by the script {program}."
    return "Made from Python, by no command of xlmech."
