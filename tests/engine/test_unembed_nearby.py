"""Rows near a known one against the read-out that walks the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import peaked

from xlmech.engine import unembed as readout
from xlmech.engine import unembed_nearby as module
from xlmech.engine import vocabulary as chunks
from xlmech.engine.unembed import token_log_prob
from xlmech.engine.unembed_nearby import near_log_prob, nearby
from xlmech.engine.vocabulary import scores


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (chunks, module, readout):
        monkeypatch.setattr(other, "CHUNK", 64)


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("distance", [1e-3, 0.3, 5.0, 60.0])
def test_rows_near_a_known_one(softcap: float | None, distance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, unembed = peaked(torch.float32)
    rows = hidden[:1] + distance * torch.nn.functional.normalize(torch.randn(9, 16), dim=1)
    rows[3] = hidden[2]  # one that is not near at all
    targets = torch.arange(18).view(9, 2)
    walked: list[int] = []
    monkeypatch.setattr(
        module,
        "token_log_prob",
        lambda part, *rest, **options: (walked.append(len(part)), token_log_prob(part, *rest, **options))[1],
    )
    bias = torch.randn(5000) / 10
    known = nearby(hidden[0], unembed, bias=bias, softcap=softcap)
    found = near_log_prob(rows, known, targets)
    wanted = token_log_prob(rows.double(), unembed.double(), targets, bias=bias.double(), softcap=softcap).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    assert walked == {1e-3: [1], 0.3: [1]}.get(distance, walked), "only the row that is not near is walked in full"
    if distance == 60.0:
        assert walked, "what cannot be proven is walked in full"
    torch.testing.assert_close(near_log_prob(rows, known, targets[:, 0]), found[:, 0])


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_near_rows_leave_the_walk_when_they_have_enough(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, unembed = peaked(torch.float32)
    distances = torch.logspace(-1, 1.3, 200)[:, None]
    rows = hidden[:1] + distances * torch.nn.functional.normalize(torch.randn(200, 16), dim=1)
    known = nearby(hidden[0], unembed, softcap=softcap)
    widths: list[int] = []
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(
        module,
        "scores",
        lambda weight, columns, *rest: (widths.append(columns.shape[1]), scores(weight, columns, *rest))[1],
    )
    monkeypatch.setattr(module, "_FAR", 1)
    found = near_log_prob(rows, known, torch.arange(200))
    assert len(set(widths)) >= 3, "rows must leave at several places for this test to mean anything"
    wanted = token_log_prob(rows.double(), unembed.double(), torch.arange(200), softcap=softcap).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
