"""Publish an audit: results on disk, figures, and an index that shows them."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from xlmech import figures
from xlmech.audit.audit import Audit, table
from xlmech.figures.saving import write_index
from xlmech.figures.wording import bounds, language_name, ordered, percent, signed_percent
from xlmech.neurons.privacy_neurons import one_language_note
from xlmech.report.gates_text import in_brief, kept_line, what_they_are
from xlmech.report.mitigation_text import costs, gains
from xlmech.report.page import title_of_run
from xlmech.report.run_results import GIVEN, HELD_OUT, REGIMES
from xlmech.storage.atomic import new_folder


def publish(audit: Audit, folder: Path) -> Path:
    """Save the results to `folder`/results, draw the figures and write the index.

    An audit that is in `folder` already is replaced when this one is written.

    Returns:
        The index's path.
    """
    with new_folder(folder / "results", replace=True) as partial:
        audit.save(partial)
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
    notes = [*summary_lines(audit), *gate_lines(audit), *filter(None, [one_language_note(audit.neurons.languages)])]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in notes)
    summary = f"<ul>{lines}</ul>{_table_html(audit)}"
    return write_index(drawn, folder, title=title_of_run(audit.leakage.provenance), summary_html=summary)


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


def _table_html(audit: Audit) -> str:
    """Return the audit's table for readers: names instead of codes, percent throughout."""
    frame = table(audit).set_index("query_language")
    frame = frame.loc[ordered(frame.index, audit.leakage.plant_language)]
    intervals = zip(frame.low, frame.high, frame.reason, strict=True)
    shown = {
        "query language": [html.escape(language_name(code)) for code in frame.index],
        "extraction before": frame.before.map(percent),
        "control people": frame.control.map(percent),
        "extraction after": frame.after.map(percent),
        "reduction": frame.reduction.map(percent),
        "95 % interval": [bounds(low, high, missing=html.escape(reason)) for low, high, reason in intervals],
        "reduction by random neurons": frame.random.map(percent),
        "public facts kept": frame.public_kept.map(percent),
        "rise of NLL": frame.nll_rise.map(signed_percent),
    }
    return f'<div class="wide">{pd.DataFrame(shown).to_html(index=False, border=0, escape=False)}</div>'
