"""The selection rules, on scores whose answer is known: three languages, two layers of three neurons."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from xlmech.neurons.selection.rules import candidates, select_specific, select_universal

SCORES = torch.tensor(
    [
        [[0.9, 0.1, 0.5], [0.0, 0.8, 0.3]],
        [[0.2, 0.7, 0.5], [0.0, 0.9, 0.3]],
        [[0.3, 0.1, 0.4], [0.6, 0.7, -0.1]],
    ]
)
NONE = torch.zeros_like(SCORES, dtype=torch.bool)


def rounded(found: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return [(layer, neuron, round(score, 4)) for layer, neuron, score in found]


def test_candidates_are_the_top_by_mean_or_share() -> None:
    share = torch.zeros_like(SCORES)
    top = candidates(SCORES, share, n_neurons=2, min_share=0.5)
    assert [[tuple(place) for place in language.nonzero().tolist()] for language in top] == [
        [(0, 0), (1, 1)],
        [(0, 1), (1, 1)],
        [(1, 0), (1, 1)],
    ]
    share[2, 0, 1], share[0, 0, 2] = 0.5, 0.49
    more = candidates(SCORES, share, n_neurons=2, min_share=0.5)
    assert (more & ~top).nonzero().tolist() == [[2, 0, 1]]
    assert candidates(SCORES, share, n_neurons=0, min_share=0.5).nonzero().tolist() == [[2, 0, 1]]
    assert candidates(SCORES, share, n_neurons=99, min_share=1.1).equal(SCORES > 0)


def test_what_public_facts_take_from_mean_and_share_makes_no_candidate() -> None:
    """Neither a share without a positive mean, nor what is not a number, which would rank first."""
    share = torch.ones_like(SCORES)
    assert not candidates(SCORES - 1, share, n_neurons=2, min_share=0.5).any()
    failed = SCORES.clone()
    failed[1] = math.nan
    found = candidates(failed, torch.zeros_like(SCORES), n_neurons=2, min_share=0.5)
    assert found[0].sum() == 2 and not found[1].any()
    lowest = failed.amin(0)
    assert lowest.isnan().all() and select_universal(failed, rule="min", n_neurons=3, is_candidate=NONE) == []
    failed[1, 0, 0] = 0.9
    assert rounded(select_universal(failed, rule="min", n_neurons=3, is_candidate=NONE)) == [(0, 0, 0.3)]


@pytest.mark.parametrize(
    ("n_neurons", "chosen"),
    [
        (1, [(1, 1, 0.7)]),
        (3, [(1, 1, 0.7), (0, 2, 0.4), (0, 0, 0.2)]),
        (99, [(1, 1, 0.7), (0, 2, 0.4), (0, 0, 0.2), (0, 1, 0.1)]),
        (0, []),
    ],
)
def test_universal_by_the_minimum(n_neurons: int, chosen: list[tuple[int, int, float]]) -> None:
    assert rounded(select_universal(SCORES, rule="min", n_neurons=n_neurons, is_candidate=NONE)) == chosen


def test_universal_by_intersection() -> None:
    is_candidate = NONE.clone()
    is_candidate[:, 0, 0] = is_candidate[:, 0, 2] = is_candidate[:2, 1, 1] = is_candidate[:, 1, 2] = True
    found = select_universal(SCORES, rule="intersection", n_neurons=9, is_candidate=is_candidate)
    assert rounded(found) == [(0, 0, 0.4667), (0, 2, 0.4667), (1, 2, 0.1667)]
    assert rounded(select_universal(SCORES, rule="intersection", n_neurons=9, is_candidate=NONE)) == []
    with_middle = is_candidate | (torch.arange(3)[:, None, None] == 2) & (SCORES == 0.7)
    best = select_universal(SCORES, rule="intersection", n_neurons=1, is_candidate=with_middle)
    assert rounded(best) == [(1, 1, 0.8)]


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="unknown rule 'max'; use 'min', 'intersection' or 'entropy'"):
        select_universal(SCORES, rule="max", n_neurons=1, is_candidate=NONE)  # type: ignore[arg-type]


def test_specific_neurons_are_nobody_elses_candidates() -> None:
    is_candidate = candidates(SCORES, torch.zeros_like(SCORES), n_neurons=3, min_share=0.5)
    # candidates: (0,0) (0,2) (1,1) | (0,1) (0,2) (1,1) | (0,2) (1,0) (1,1)
    found = [rounded(select_specific(SCORES, n, n_neurons=9, is_candidate=is_candidate)) for n in range(3)]
    assert found == [[(0, 0, 0.9)], [(0, 1, 0.7)], [(1, 0, 0.6)]]
    only_first = NONE.clone()
    only_first[0] = True
    ordered = [(0, 0, 0.9), (1, 1, 0.8), (0, 2, 0.5), (1, 2, 0.3), (0, 1, 0.1)]
    assert rounded(select_specific(SCORES, 0, n_neurons=9, is_candidate=only_first)) == ordered
    assert rounded(select_specific(SCORES, 0, n_neurons=2, is_candidate=only_first)) == ordered[:2]
    assert select_specific(SCORES, 1, n_neurons=9, is_candidate=only_first) == []


def test_specific_neurons_by_entropy() -> None:
    """A neuron mostly of one language is its own though another has it as a candidate; shared ones are nobody's."""
    scores = torch.tensor([
        [[0.9, 0.5, -0.1, 0.3, 0.0]],
        [[0.1, 0.5, 0.4, -0.3, 0.0]],
    ])  # fmt: skip
    everybody = torch.ones_like(scores, dtype=torch.bool)
    options: dict[str, Any] = {"n_neurons": 9, "is_candidate": everybody, "rule": "entropy"}
    assert [rounded(select_specific(scores, n, **options)) for n in range(2)] == [
        [(0, 0, 0.9), (0, 3, 0.3)],
        [(0, 2, 0.4)],
    ]
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    for bound, found in ((entropy - 1e-6, [(0, 3, 0.3)]), (entropy + 1e-6, [(0, 0, 0.9), (0, 3, 0.3)])):
        assert rounded(select_specific(scores, 0, **options, max_entropy=bound)) == found
    both = rounded(select_specific(scores, 0, **options, max_entropy=math.log(2) + 1e-6))
    assert both == [(0, 0, 0.9), (0, 1, 0.5), (0, 3, 0.3)], "a tie is the first language's"
    assert rounded(select_specific(scores, 0, **options | {"n_neurons": 1})) == [(0, 0, 0.9)]
    assert select_specific(scores, 0, **options | {"is_candidate": ~everybody}) == []
    plain = [select_specific(scores, n, **options | {"rule": "min"}) for n in range(2)]
    assert plain == [[], []], "by the other rules, candidates of both are nobody's"
    universal = select_universal(SCORES, rule="entropy", n_neurons=3, is_candidate=NONE)
    assert universal == select_universal(SCORES, rule="min", n_neurons=3, is_candidate=NONE)
