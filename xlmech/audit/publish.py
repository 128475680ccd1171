"""Publish an audit: results on disk, each figure as a page of its own, and the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go

from xlmech import figures
from xlmech.audit.audit import Audit
from xlmech.figures.saving import write_pages
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.report.mitigation_text import costs, gains, in_brief, kept_line, what_they_are
from xlmech.report.page import PAGE, write_report
from xlmech.report.run_results import EXPORTED, GIVEN, HELD_OUT, REGIMES
from xlmech.storage.atomic import new_folder


def publish(audit: Audit, folder: Path, *, exported: MitigationResult | None = None) -> Path:
    """Save the results to `folder`/results, draw the figures and write the report.

    An audit that is in `folder` already is replaced when this one is written.

    Args:
        audit: What was measured.
        folder: Run folder.
        exported: The measurement with the exported neurons, if these are others than those that the audit ablates.

    Returns:
        The report's path.
    """
    with new_folder(folder / "results", replace=True) as partial:
        audit.save(partial)
        if exported is not None:
            exported.save(partial / EXPORTED)
    write_pages(_figures(audit), folder)
    return write_report(folder, folder / PAGE)


def _figures(audit: Audit) -> dict[str, go.Figure]:
    """Draw what the results allow, by the names of the pages."""
    several = len(audit.neurons.languages) > 1
    drawn = {"leakage_matrix": figures.leakage_matrix(audit.leakage)} if several else {}
    drawn |= {
        "leakage_by_language": figures.leakage_by_language(audit.leakage),
        "neurons_per_layer": figures.neurons_per_layer(audit.neurons),
        "before_after": figures.before_after(audit.mitigation),
        "cost": figures.cost(audit.mitigation),
    }
    if several and bool((audit.neurons.scores > 0).any()):
        drawn["overlap"] = figures.overlap(audit.neurons)
    for name, measured in (audit.gates.regimes if audit.gates is not None else {}).items():
        drawn[name] = figures.before_after(measured, people=REGIMES[name])
        if name in (GIVEN, HELD_OUT):
            drawn[f"{name}_cost"] = figures.cost(measured, people=REGIMES[name])
    if audit.lens is not None:
        drawn["lens"] = figures.lens(audit.lens)
        if several:
            drawn["leakage_per_layer"] = figures.leakage_per_layer(audit.lens)
    return drawn


def summary_lines(audit: Audit) -> Iterator[str]:
    """Say what ablation reduces and what it costs, with the intervals and the random control; one sentence each."""
    yield from gains(audit.mitigation)
    yield from costs(audit.mitigation)


def gate_lines(audit: Audit) -> Iterator[str]:
    """Say what the gates are, and what they do in each regime, a line each; nothing without gates."""
    found = audit.gates
    if found is None:
        return
    yield what_they_are(found.gates)
    for regime, result, kept in (
        (GIVEN, found.given, found.given_kept),
        (HELD_OUT, found.held_out, found.held_out_kept),
    ):
        yield " ".join([in_brief(result, regime), *([kept_line(kept)] if kept is not None else [])])
