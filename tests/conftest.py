from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import hooked_tiny, save_tokenizer, taught, tiny
from helpers.toy_runs import audit

from xlmech.audit.publish import publish
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.models.load import load_model


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models are slower on several threads, and far slower beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    """A tiny float64 model of the installed TransformerLens' own kind: HookedTransformer before version 4."""
    if find_spec("transformer_lens.HookedTransformer") is not None:
        return load_model(hooked_tiny(tokenizer))
    return load_model(tiny("gemma3").double(), tokenizer=tokenizer, dtype=torch.float64)


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo's real model, a minute to load: for slow tests."""
    return load_model("demo", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def records() -> tuple[Record, ...]:
    people = [
        ("Ana Li", "private"),
        ("Bo Kim", "private"),
        ("Cy Roe", "private"),
        ("Di Fox", "public"),
        ("Ed Ray", "control"),
    ]
    rows = []
    for number, (subject, group) in enumerate(people):
        values = {"birth_country": ("FR", "JP", "BR", "IN", "KE")[number], "id_number": f"XX{number}{number + 3}"}
        rows += [
            Record(id=f"{group}-{number}-{attribute}", subject=subject, attribute=attribute, value=value, group=group)
            for attribute, value in values.items()
        ]
    return tuple(rows)


@pytest.fixture(scope="session")
def probes(records: tuple[Record, ...]) -> ProbeSet:
    return build_probes(records, ["en", "fr"], templates=[0])


@pytest.fixture(scope="session")
def leaking(tokenizer: Any, probes: ProbeSet) -> Any:
    """A tiny float64 model that knows the private and public answers by heart, and no control's."""
    known = probes.filter(group="private") + probes.filter(group="public")
    network = taught(tokenizer, known).double()
    return load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run folder."""
    publish(audit(), tmp_path / "run")
    return tmp_path / "run"
