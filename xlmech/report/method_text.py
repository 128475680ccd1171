"""What a report says of its making: method, limits, versions and seeds, how to reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from xlmech.data.languages import UNGUESSABLE
from xlmech.figures.wording import joined, language_name, plain
from xlmech.report.run_results import STAGES, RunResults


def method(results: RunResults) -> Iterator[str]:
    """Say how it was measured, with this run's counts."""
    probes = results.leakage.probes
    counts = ", ".join(
        f"{part.subject.nunique():,} {group} people ({len(part):,} questions)"
        for group, part in probes.groupby("group", sort=False)
    )
    yield f"Asked: {counts}; kinds of data: {', '.join(map(plain, probes.attribute.unique()))}."
    if results.leakage.plant_language:
        name = language_name(results.leakage.plant_language)
        yield f"The training language is {name}: the private people's data stood in the model's training text in it."
    yield (
        "A value is extracted if the greedy answer contains it in any language's form, after Unicode normalisation and "
        "folding of case and digits; numbers are compared without separators. Word and number boundaries are kept."
    )
    yield (
        "Control people were never in the training text. Their rate, weighted by the private people's kinds of data, is chance "
        "and is subtracted; the difference's interval joins the two groups' own (Newcombe 1998). A rate's interval is "
        "Clopper and Pearson's on an effective number of observations, between the number of people and that of their questions. "
        "Whether the groups differ is judged by a permutation test over people, with Holm's correction for the number of "
        f"languages and kinds of data. What cannot be guessed ({joined(map(plain, UNGUESSABLE))}) is a leak if it is extracted "
        "once."
    )
    if results.lens is not None:
        yield (
            "The lens reads each layer's residual stream through the model's own last norm and unembedding, at the token "
            "before the answer (logit lens)."
        )
    if results.neurons is not None:
        yield (
            f"Neurons are entries of the MLPs' hidden activations, chosen by attribution (rule {results.neurons.rule!r}) on "
            "other people than the held-out people who are measured here."
        )
    if results.mitigation is not None:
        yield (
            "Ablation (the paper's deactivation) sets them to zero at every position; reduction is 1 - after/before on the same "
            "questions. Public facts count if they are given in the question's language."
        )
    yield "Terms: see the glossary of the documentation."


def limits(results: RunResults, not_drawn: Sequence[str]) -> Iterator[str]:
    """Say what the figures do not show, and what was not measured or drawn."""
    yield (
        "A rate holds for the wordings that were asked and for greedy answers: it does not bound what sampling, other wordings, "
        "longer dialogues or fine-tuning extract."
    )
    yield (
        "That nothing was extracted from the people asked does not show that nothing can be; see how few people the interval "
        "allows for."
    )
    yield (
        "A chosen neuron is a hypothesis; that ablating it helps is shown for the people and languages measured here alone, and "
        "no abilities but those in the cost were measured."
    )
    yield (
        "What the paper calls privacy neurons is reconstructed here (Dong et al. 2025, arXiv:2506.00759, publishes no formula)."
    )
    yield "The language packs were not proofread by native speakers."
    if (results.leakage.probes.group != "control").all():
        yield "No control people were asked, so chance is not known."
    yield from (f"Not in this run: {stage}." for stage in results.missing)
    if results.skipped:
        yield f"Saved in the run, and without a figure here: {', '.join(results.skipped)}."
    yield from (f"Not drawn: {line}" for line in not_drawn)


def provenance_table(results: RunResults) -> dict[str, Any]:
    """List model, versions, seed and time, one row per result."""
    rows = []
    for name, result in results.results.items():
        source = asdict(result.provenance)
        rows.append(
            [
                STAGES.get(name, plain(name)),
                source["model"],
                source["adapter"] or "none",
                source["revision"][:12] or "unknown",
                " ".join(filter(None, (source["dtype"], source["device"], source["backend"]))) or "unknown",
                source["seed"],
                ", ".join(f"{package} {version}" for package, version in source["versions"].items()),
                source["time"],
            ]
        )
    return {
        "columns": ["result", "model", "adapter", "revision", "weights on", "seed", "versions", "time"],
        "rows": rows,
    }


def reproduce(results: RunResults) -> Iterator[str]:
    """Say how to make the results and this page again, from what the run folder holds."""
    name = shlex.quote(results.origin)
    where = f"in the folder that holds the run folder {results.origin}"
    if results.has_config:
        yield (
            f"The run again, {where}: xlmech run {name}/config.yaml. It needs the model and the records that config.yaml names, "
            "and an `out` that does not exist."
        )
    else:
        commands = [result.provenance.command for result in results.results.values()]
        yield from dict.fromkeys(_made_by(command) for command in commands if command)
    if results.origin:
        yield f"This page again, {where}: xlmech report {name}"
    if results.seconds:
        stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results.seconds.items())
        yield f"It took {sum(results.seconds.values()):.0f} s ({stages})."
    yield "The run folder holds every result as Parquet and safetensors; the same seed gives the same figures."


def _made_by(command: str) -> str:
    """Name the process that measured; the arguments of a notebook or a test mean nothing to a reader."""
    program = command.split(" ")[0]
    if program.removesuffix(".exe") == "xlmech":
        return f"Made by: {command}. Its paths are relative to the folder in which it was run."
    if program.endswith(".py") and not program.startswith(("__main__", "ipykernel")):
        return f"Made by the script {program}."
    return "Made from Python, by no command of xlmech."
