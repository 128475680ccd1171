"""Prompt formats: what is written around a question, and taken away again."""

from __future__ import annotations

from typing import Any

import pytest

from xlmech.data.probes import ProbeSet
from xlmech.data.prompt_format import PLAIN, QA, PromptFormat, named_format
from xlmech.data.questions import build_probes, with_format
from xlmech.data.records import Record

CHAT = PromptFormat(
    name="chat",
    template="<s>{x} {subject}\n{question}<end>\n",
    lines_end_answers=False,
    end_token="<end>",
    reason="a test",
)


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ("plain", "Who?\n"),
        ("qa", "Question: Who?\nAnswer:"),
        ("Q: {question} A:", "Q: Who? A:"),
        (CHAT, "<s>{x} {subject}\nWho?<end>\n"),
    ],
)
def test_a_format_asks_and_knows_its_question(given: Any, prompt: str) -> None:
    frame = named_format(given)
    assert frame.ask("Who?") == prompt
    assert frame.question_of(prompt) == "Who?"
    assert frame.fits(prompt) and not frame.fits(f"{prompt}!")
    assert PromptFormat(**frame.to_dict()) == frame
    assert frame.answer_end == ("<end>" if given is CHAT else "\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("chat", r"prompt 'chat' depends on the model's tokenizer; pass prompt=prompt_format\(model, 'chat'\)"),
        ("auto", r"pass prompt=prompt_format\(model, 'auto'\)"),
        ("plane", r"'plane' must hold \{question\} exactly once, or be one of plain, .*did you mean 'plain'"),
        ("{question} {question}", r"must hold \{question\} exactly once"),
        ("{question} {subject}", r"a brace that is no known placeholder"),
    ],
)
def test_names_that_need_a_model_or_a_question_are_refused(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_format(given)


def test_a_template_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        PromptFormat(name="own", template="?")
    with pytest.raises(ValueError, match="does not have the format"):
        QA.question_of("Who?\n")


@pytest.mark.parametrize("frame", [PLAIN, QA, CHAT])
def test_questions_in_another_format_are_those_built_in_it(records: tuple[Record, ...], frame: PromptFormat) -> None:
    built = build_probes(records, ["en", "fr"], prompt=frame)
    moved = with_format(build_probes(records, ["en", "fr"]), frame)
    assert moved == built and isinstance(moved, ProbeSet)
    for probe in moved:
        assert probe.format == frame
        assert probe.prompt[slice(*probe.subject_span)] == probe.record.subject
