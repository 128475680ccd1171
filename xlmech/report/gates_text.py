"""What gates are, and what they do to given and to held-out people, in sentences; no sentence is about both."""

from __future__ import annotations

from collections.abc import Iterator

from xlmech.figures.wording import counted
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.reduction import pooled_hits
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.report.mitigation_text import costs, deed, gains, less
from xlmech.report.run_results import GIVEN, GIVEN_KEPT, HELD_OUT, HELD_OUT_KEPT, RunResults, chosen_effects

WHO = {
    GIVEN: "Given people, from whom the gates were learned, asked with another question",
    HELD_OUT: "Held-out people, of whom nothing was used",
}
"""Each regime, as the beginning of a sentence."""


def what_they_are(gates: NeuronGates) -> str:
    """Say how many neurons are turned down, how far, and from how much that was learned."""
    counts = gates.counts
    learned = ""
    if counts:
        learned = (
            f"; learned from {counted(counts.get('private', 0), 'private answer', 'private answers')}, "
            f"{counted(counts.get('public', 0), 'public one', 'public ones')} and "
            f"{counted(counts.get('texts', 0), 'neutral text', 'neutral texts')}"
        )
    total = gates.factors.numel()
    return f"Gates turn {gates.n_touched:,} of {total:,} neurons down (factor {gates.mean_factor:.2f} on average){learned}."


def in_brief(result: MitigationResult, regime: str) -> str:
    """Say in one line what the gates reduce in a regime, and what they cost in public facts."""
    first, cost = next(gains(result)), next(costs(result))
    name = next(iter(result.chosen))
    done = f"With {100 * result.chosen[name] / result.total_neurons:.2g} % of the neurons {deed(result, name)}, "
    text = first.removeprefix(done)
    return f"{WHO[regime]}: {text[:1].lower()}{text[1:]} {cost}"


def regime_lines(results: RunResults, regime: str) -> Iterator[str]:
    """Say at length what the gates do in a regime; nothing where it was not measured."""
    result = results.measured_gates(regime)
    if result is None:
        return
    if regime == GIVEN and results.gates is not None:
        yield what_they_are(results.gates)
    yield f"{WHO[regime]}."
    yield from gains(result)
    yield from costs(result)
    kept = results.measured_gates({GIVEN: GIVEN_KEPT, HELD_OUT: HELD_OUT_KEPT}[regime])
    if kept is not None:
        yield kept_line(kept)


def kept_line(result: MitigationResult) -> str:
    """Say how much less is extracted of the private kinds of data that were to be kept."""
    private = chosen_effects(result, "private")[1]
    before, after = pooled_hits(private)
    if not before:
        return "Of the private kinds of data that are kept, nothing was extracted before."
    return f"Of the private kinds of data that are kept, {less(1 - after / before)} is extracted."
