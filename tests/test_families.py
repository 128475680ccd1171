"""Each family of models gives transformers' own numbers, or is refused; the page of families says the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import CHECKS, EXPERTS, FAMILIES, REFUSED, TOLERANCE, countries, differences, network_of

import xlmech
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.models.load import load_model

ROOT = Path(xlmech.__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, float]]:
    """A family's differences from transformers, measured once."""
    probes, folder = countries(), tmp_path_factory.mktemp("exports")
    return cache(lambda name: differences(FAMILIES[name], tokenizer, probes, folder / name))


def test_there_are_24_families() -> None:
    assert len(FAMILIES) == 24


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_what_transformers_gives(name: str, measured: Callable[[str], dict[str, float]]) -> None:
    found = measured(name)
    assert found.keys() == CHECKS.keys() - {"loads"}
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_would_give_wrong_numbers_is_refused(name: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError) as caught:
        load_model(network_of(REFUSED[name]), tokenizer=tokenizer, backend="bridge")
    assert REFUSED[name].refusal in str(caught.value)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - {"t5"}))
def test_it_is_refused_from_a_folder_too(name: str, tokenizer: Any, tmp_path: Path) -> None:
    network_of(REFUSED[name]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=REFUSED[name].refusal.partition("(")[0]):
        load_model(tmp_path, backend="bridge")


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_load_and_their_neurons_are_refused(name: str, tokenizer: Any) -> None:
    network, tokens = network_of(EXPERTS[name]), torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        wanted = network(tokens).logits
        model = load_model(network, tokenizer=tokenizer, backend="bridge")
        torch.testing.assert_close(model(tokens, return_type="logits"), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=EXPERTS[name].refusal):
        backend_of(model).hook_name(NEURON_HOOK, 0)


def test_the_page_is_what_is_measured(measured: Callable[[str], dict[str, float]]) -> None:
    spec = importlib.util.spec_from_file_location("families_table", ROOT / "tools" / "families_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = {
        name: {check: ({"loads": 0.0} | measured(name))[check] <= TOLERANCE for check in CHECKS} for name in FAMILIES
    }
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert module.page(results) == page, "run python tools/families_table.py > docs/families.md"
