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
from xlmech.report.mitigation_text import costs, gains
from xlmech.report.page import title_of_run
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
    if audit.lens is not None:
        drawn["lens"] = figures.lens(audit.lens)
        if several:
            drawn["leakage_per_layer"] = figures.leakage_per_layer(audit.lens)
    notes = [*summary_lines(audit), *filter(None, [one_language_note(audit.neurons.languages)])]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in notes)
    summary = f"<ul>{lines}</ul>{_table_html(audit)}"
    return write_index(drawn, folder, title=title_of_run(audit.leakage.provenance), summary_html=summary)


def summary_lines(audit: Audit) -> Iterator[str]:
    """Say what ablation reduces and what it costs, with the intervals and the random control; one sentence each."""
    yield from gains(audit.mitigation)
    yield from costs(audit.mitigation)


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
