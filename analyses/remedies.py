"""Which remedy takes most of what is extracted of known people, and what does each cost?

Writes `figures/remedies.html` and `figures/remedies.json`, from what `headline.py` and `unlearning.py` saved.

    python analyses/remedies.py

Everything is asked of the same people, whose records gates, recipes and unlearning were given, with the same template, in ten
languages: the English model of the demo. Notebook 04 shows the table.
"""

from __future__ import annotations

import json
from pathlib import Path

import outputs
import pandas as pd
import plotly.graph_objects as go

from xlmech import MitigationResult
from xlmech.figures import finish
from xlmech.figures.style import BLUE, GREY, INK, ORANGE
from xlmech.figures.wording import percent

STAGES = ("given_gates", "given_sizes", "given_attacks", "given_margin6", "given_recipes")
KINDS = {"gates": "learned gates", "zeros": "gates' neurons at zero", "weights": "unlearning of all weights"}
"""Kinds of remedies by the beginning of their name; the others are recipes of earlier work."""
COLOURS = {"learned gates": BLUE, "gates' neurons at zero": INK, "recipes": GREY, "unlearning of all weights": ORANGE}


def table(folder: Path) -> pd.DataFrame:
    """Return one row per remedy: neurons, shares of private extraction taken and of public facts kept, and largest NLL rise."""
    rows = [row for stage in STAGES if (folder / stage).is_dir() for row in of_result(folder / stage)]
    changed = outputs.FIGURES / "unlearning.json"
    if folder.name == "en" and changed.is_file():
        rows += [of_unlearning(name, one) for name, one in json.loads(changed.read_text(encoding="utf-8")).items()]
    found = pd.DataFrame(rows).drop_duplicates("remedy")
    kinds = found.remedy.str.extract(r"^([a-z]+)")[0].map(KINDS).fillna("recipes")
    return found.assign(kind=kinds).sort_values(["kind", "reduction"], ascending=[True, False], ignore_index=True)


def of_result(folder: Path) -> list[dict[str, object]]:
    result = MitigationResult.load(folder)
    overall = result.overall.set_index(["condition", "group"])
    rise = result.cost.groupby("condition").rise.max()
    return [
        {
            "remedy": name,
            "neurons": size,
            **overall.loc[(name, "private"), ["reduction", "low", "high"]].to_dict(),
            "public_kept": 1 - overall.loc[(name, "public"), "reduction"],
            "nll_rise": rise.get(name, float("nan")),
        }
        for name, size in result.chosen.items()
    ]


def of_unlearning(name: str, found: dict[str, float]) -> dict[str, object]:
    nothing = float("nan")
    return {
        "remedy": f"weights: {name.replace('_', ' ')}",
        "neurons": nothing,
        "reduction": 1 - found["given_private_left"],
        "low": nothing,
        "high": nothing,
        "public_kept": found["given_public_left"],
        "nll_rise": found["worst_nll_rise"],
    }


def drawing(found: pd.DataFrame) -> go.Figure:
    """Draw what each remedy takes (x) and keeps (y); up and to the right is better."""
    figure = go.Figure()
    for kind, part in found.groupby("kind", sort=False):
        figure.add_scatter(
            x=part.reduction,
            y=part.public_kept,
            name=str(kind),
            mode="markers",
            marker={"size": 11, "color": COLOURS[str(kind)]},
            text=part.remedy,
            customdata=part.nll_rise,
            hovertemplate="%{text}<br>extraction taken %{x:.0%}<br>public facts kept %{y:.0%}"
            "<br>largest NLL rise %{customdata:.1%}<extra></extra>",
        )
    figure.update_xaxes(title_text="private extraction taken", tickformat=".0%", range=[-0.05, 1.05])
    figure.update_yaxes(title_text="public facts kept", tickformat=".0%", range=[0, 1.08])
    keeping = found[found.public_kept >= 0.95].groupby("kind").reduction.max()
    best, rest = str(keeping.idxmax()), keeping.drop(keeping.idxmax()).max()
    title = f"Where 95 % of public facts are kept, {best} take {percent(keeping.max())}, and all else {percent(rest)} at most"
    caption = """Up and to the right is better. Each point is one remedy, on the eight people whose records it was given, asked
    with another template in ten languages; point at it for its name. With so few people intervals are wide, 56 to 99 % for all
    gates."""
    return finish(figure, title, caption, height=380, foot=80, need=560, legend=True)


def main() -> None:
    outputs.parser_of(__doc__).parse_args()
    found = table(outputs.RESULTS / "headline" / "en")
    outputs.save_page(drawing(found), "remedies")
    rows = json.loads(found.round(4).to_json(orient="records"))
    outputs.save_text(json.dumps(rows, indent=1) + "\n", "remedies.json")
    print(found.round(3).to_string())


if __name__ == "__main__":
    main()
