from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest

from xlmech import figures


@dataclass(frozen=True)
class Specific:
    frame: pd.DataFrame
    sizes: dict[str, int]
    mean_factors: dict[str, float] = field(default_factory=dict)
    plant_language: str = "en"

    def matrix(self) -> pd.DataFrame:
        return self.frame


def specific(codes: tuple[str, ...] = ("en", "fr")) -> Specific:
    rows = [
        (one, query, 0.8, 0.8 * (0.1 if one == query else 1.1), 0.9 if one == query else -0.1, -0.2, 0.95)
        for one in codes
        for query in codes
    ]
    names = ["language", "query_language", "before", "after", "reduction", "low", "high"]
    frame = pd.DataFrame(rows, columns=names).assign(risen=0, n_subjects=8, n_probes=16, reason="")
    return Specific(frame, dict.fromkeys(codes, 40))


def test_specificity_is_a_matrix_around_zero() -> None:
    result = specific()
    undefined = result.frame.assign(
        reduction=result.frame.reduction.where(result.frame.index != 1),
        low=math.nan,
        high=math.nan,
        reason=["", "nothing was extracted before", "", ""],
    )
    figure = figures.specificity(Specific(undefined.iloc[:3], result.sizes))
    cells = figure.data[0]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), [[0.9, math.nan], [-0.1, math.nan]])
    assert (cells.zmin, cells.zmax) == (-1, 1)
    assert (
        cells.hovertext[1][1].endswith("not measured")
        and "undefined (nothing was extracted before)" in cells.hovertext[0][1]
    )
    hover = figures.specificity(result).data[0].hovertext[0][0]
    for part in (
        "40 neurons of English (en) ablated, asked in English (en)",
        "extraction 80 % to 8 %",
        "90 % [\u221220, 95]",
        "8 people",
    ):
        assert part in hover
    notes = [note.text for note in figures.specificity(result).layout.annotations if note.name is None]
    assert notes[0].startswith("90 %<br>") and notes[1].startswith("\u221210 %<br>")
    assert [shape.x0 for shape in figure.layout.shapes] == [-0.49, 0.51]
    assert list(figure.layout.yaxis.ticktext) == ["English (en), 40", "French (fr), 40"]
    many = figures.specificity(specific(("en", "fr", "de", "es", "zh", "ja", "ru")))
    assert all("<br>" not in note.text for note in many.layout.annotations if note.name is None)
    assert "8 people and 16 questions per cell" in many.layout.meta["caption"]
    with pytest.raises(ValueError, match="no cells"):
        figures.specificity(Specific(result.frame.iloc[:0], {}))


def test_gates_turn_down_and_are_not_called_ablated() -> None:
    of_french = replace(specific(), mean_factors={"fr": 0.9})
    hovers = "".join(np.ravel(figures.specificity(of_french).data[0].hovertext))
    assert "neurons of French (fr) turned down, asked" in hovers and "neurons of English (en) ablated" in hovers


def test_the_title_counts_what_falls_beyond_chance() -> None:
    result = specific()
    low = [0.5, 0.1, -0.2, -0.1]  # English neurons: both languages; French neurons: neither
    shown = figures.specificity(replace(result, frame=result.frame.assign(low=low))).layout.meta["title"]
    assert shown == "Own neurons reduce extraction in 1 of 2 languages, other languages' in 1 of 2 cells"
    none = figures.specificity(result).layout.meta["title"]
    assert none == "No set of one language's neurons reduces extraction beyond chance, in any language"
