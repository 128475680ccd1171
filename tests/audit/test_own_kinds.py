"""A user's own kind of data, in a language without a pack, from a CSV and a config on disk to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import tiny

from xlmech.audit.config import read_config
from xlmech.audit.run import run_config
from xlmech.report.page import write_report

KINDS = """
[badge]
compare = "number"
guessable = false
questions = { en = ["Which badge does {subject} wear?"], cs = ["Jaký odznak nosí {subject}?"] }
"""
CONFIG = """model:
  source: model
data:
  records: people.csv
  kinds: kinds.toml
  languages: [en, cs]
  attributes: [badge, pin]
  prompt: plain
  max_new_tokens: 4
  locate_facts: 4
locate:
  n_neurons: 3
out: run
"""


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = ["id,subject,attribute,value,group,prompt_en,prompt_cs"]
    for group in ("private", "public", "control"):
        for number in range(4):
            name = f"{group.title()}{number} Novák"
            rows.append(f"{group}-{number},{name},badge,4{number}17,{group},,")
            rows.append(
                f'{group}-{number}-pin,{name},pin,9{number}2,{group},"Dear {name}, the PIN is",PIN pro {name} je'
            )
    (tmp_path / "people.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "kinds.toml").write_text(KINDS + "[pin]\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def test_an_audit_of_ones_own_kinds_in_a_language_without_a_pack(folder: Path) -> None:
    outcome = run_config(read_config(folder / "own.yaml"), progress=False)
    probes = outcome.audit.leakage.probes
    assert set(probes.attribute) == {"badge", "pin"} and set(probes.query_language) == {"en", "cs"}
    assert probes[probes.attribute == "badge"].guessable.eq(False).all()
    cost = outcome.audit.mitigation.cost
    assert cost[cost.query_language == "en"].nll_before.notna().all()
    assert cost[cost.query_language == "cs"].nll_before.isna().all()
    assert any("cs" in note and "neutral text" in note for note in outcome.notes)
    page = write_report(folder / "run", folder / "report.html").read_text(encoding="utf-8")
    assert "neutral text" in page and "4017" not in page and "Novák" not in page
