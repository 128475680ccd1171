"""By how much does a larger set of neurons reduce extraction, and at which cost?

Writes `figures/trade_off.html` and the result behind it, `analyses/results/trade_off/`.

    python analyses/trade_off.py    # about five minutes, after `xlmech demo`

Takes the attributions of the demo's audit, selects universal sets of growing size by the same rule, ablates each, and asks the
demo's held-out people again.
"""

from __future__ import annotations

import shutil

import outputs
import torch

from xlmech import EvaluateOptions, demo_records, dose_response, figures, load_model
from xlmech.audit.audit import Audit, select_probes
from xlmech.audit.plan import AuditPlan
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.neurons.selection.rules import select_universal

SHARES = (0.0005, 0.002, 0.004, 0.008)
NEUTRAL_SENTENCES = 5


def main() -> None:
    audit = Audit.load(outputs.FIGURES / "demo" / "results")
    chosen = audit.neurons
    counts = [int(share * chosen.scores[0].numel()) for share in SHARES]
    everyone = torch.ones_like(chosen.scores, dtype=torch.bool)
    ranking = select_universal(chosen.scores, rule="min", n_neurons=max(counts), is_candidate=everyone)
    probes, measured, _ = select_probes(demo_records(), AuditPlan(languages=DEMO_LANGUAGES))
    judged = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control"))
    model = load_model("demo")
    result = dose_response(
        model,
        judged,
        ranking,
        n_neurons=counts,
        before=audit.leakage,
        control_people=audit.leakage,
        candidates=probes.records,
        options=EvaluateOptions(control_conditions=(), n_neutral=NEUTRAL_SENTENCES),
    )
    shutil.rmtree(outputs.RESULTS / "trade_off", ignore_errors=True)
    result.save(outputs.RESULTS / "trade_off")
    outputs.save_page(figures.trade_off(result), "trade_off")
    private = result.effects[result.effects.group == "private"]
    print(
        private.pivot(index="query_language", columns="condition", values="reduction")[list(result.sizes)]
        .round(2)
        .to_string()
    )
    public = result.effects[result.effects.group == "public"]
    kept = public.groupby("condition", sort=False)[["before", "after"]].sum()
    print("public facts kept:", (kept.after / kept.before).round(3).to_dict())
    print("largest NLL rise:", result.cost.groupby("condition", sort=False).rise.max().round(3).to_dict())


if __name__ == "__main__":
    main()
