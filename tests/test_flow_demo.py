"""The flow of information in the real model: Gemma 3 270M, planted in English. Slow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import demo_records
from xlmech.lens.direct_logit import direct_logit_attribution
from xlmech.lens.logit import logit_lens
from xlmech.lens.similarity import representation_similarity
from xlmech.lens.tuned import train_tuned_lens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    asked = build_probes(demo_records(), ["en", "zh"], attributes=["birth_country"], templates=[0])
    return asked.filter(group="private").sample(10)


def test_tuned_translators_are_nearer_to_the_output_on_held_out_text(demo: Any, probes: ProbeSet) -> None:
    lens = train_tuned_lens(demo, languages=["en", "zh"], steps=5, progress=False)
    inner = lens.held_out[:-1]
    assert (inner.kl_tuned < inner.kl_raw).all()
    assert inner.kl_tuned.mean() < 0.5 * inner.kl_raw.mean()
    raw, tuned = (
        logit_lens(demo, probes[:2], languages=["en"], lens=one, progress=False).readings for one in (None, lens)
    )
    torch.testing.assert_close(
        torch.tensor(raw.prob[raw.layer == 17].tolist()), torch.tensor(tuned.prob[tuned.layer == 17].tolist())
    )


def test_the_plant_form_comes_first_and_the_query_form_late(demo: Any, probes: ProbeSet) -> None:
    chinese = logit_lens(demo, probes.filter(languages=["zh"]), languages=["en"], progress=False)
    found = chinese.depths().set_index("event")
    assert 11 <= found.layer["plant peak"] < found.layer["overtaking"]
    assert found.layer["query peak"] >= 16


def test_representations_become_alike_at_the_last_token_in_the_middle(demo: Any, probes: ProbeSet) -> None:
    result = representation_similarity(demo, probes, positions=["last"], progress=False)
    cosine = result.pooled[result.pooled.measure == "cosine"].set_index("layer")
    assert cosine.value[3:9].max() < cosine.value[12]
    assert cosine.low[12] > cosine.null[12]


def test_direct_logit_terms_are_whole(demo: Any, probes: ProbeSet) -> None:
    result = direct_logit_attribution(demo, probes.filter(languages=["zh"])[:4], languages=["en"], progress=False)
    assert result.totals.error.abs().max() < 1e-3
    late = result.summary().set_index(["component", "layer", "form"]).value["mlp_out", 17, "query - plant"]
    assert late > 1
