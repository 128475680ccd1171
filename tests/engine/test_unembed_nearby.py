"""Rows that are small changes of a clean row against the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import peaked

from xlmech.engine import unembed
from xlmech.engine import unembed_nearby as module
from xlmech.engine.unembed import chunk_logits, token_log_prob
from xlmech.engine.unembed_nearby import changed_log_prob, likely_tokens


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (unembed, module):
        monkeypatch.setattr(other, "CHUNK", 64)


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("distance", [1e-3, 0.3, 5.0, 60.0])
def test_rows_near_a_clean_one(softcap: float | None, distance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = peaked(torch.float32)
    rows = hidden[:1] + distance * torch.nn.functional.normalize(torch.randn(9, 16), dim=1)
    rows[3] = hidden[2]  # one that is not near at all
    targets = torch.arange(18).view(9, 2)
    whole: list[int] = []
    monkeypatch.setattr(
        module,
        "token_log_prob",
        lambda part, *rest, **options: (whole.append(len(part)), token_log_prob(part, *rest, **options))[1],
    )
    bias = torch.randn(5000) / 10
    likely = likely_tokens(hidden[0], weight, bias=bias, softcap=softcap)
    found = changed_log_prob(rows, likely, targets)
    wanted = token_log_prob(rows.double(), weight.double(), targets, bias=bias.double(), softcap=softcap).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    assert whole == {1e-3: [1], 0.3: [1]}.get(distance, whole), (
        "only the row that is not near takes the whole vocabulary"
    )
    if distance == 60.0:
        assert whole, "a row without a proof takes the whole vocabulary"
    torch.testing.assert_close(changed_log_prob(rows, likely, targets[:, 0]), found[:, 0])
    whole.clear()
    torch.testing.assert_close(changed_log_prob(rows, likely, targets, exact=True), wanted, rtol=1e-5, atol=2e-5)
    assert whole == [9], "exact takes the whole vocabulary for every row"


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_near_rows_drop_out_when_they_have_enough(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = peaked(torch.float32)
    distances = torch.logspace(-1, 1.3, 200)[:, None]
    rows = hidden[:1] + distances * torch.nn.functional.normalize(torch.randn(200, 16), dim=1)
    likely = likely_tokens(hidden[0], weight, softcap=softcap)
    widths: list[int] = []
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(
        module,
        "chunk_logits",
        lambda weight, columns, *rest: (widths.append(columns.shape[1]), chunk_logits(weight, columns, *rest))[1],
    )
    monkeypatch.setattr(module, "_MAX_SHARE", 1)
    found = changed_log_prob(rows, likely, torch.arange(200))
    assert len(set(widths)) >= 3, "rows must leave at several places for this test to mean anything"
    wanted = token_log_prob(rows.double(), weight.double(), torch.arange(200), softcap=softcap).float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
