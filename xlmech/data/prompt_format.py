"""Prompt formats: what stands around a question, and what ends an answer to it.

    build_probes(records, ["fr"], prompt="qa")
    build_probes(records, ["fr"], prompt="Q: {question} A:")
    build_probes(records, ["fr"], prompt=prompt_format(model, "chat"))

A model's own chat template needs its tokenizer: `xlmech.models.prompts.prompt_format` makes a format of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from xlmech.checks import hint
from xlmech.data.languages import check_template

PromptName = Literal["plain", "qa", "chat", "own"]
QUESTION = "{question}"
LINE_END = "\n"


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """What stands around a question, and what ends an answer to it.

    Attributes:
        name: `plain`, `qa`, `chat`, or `own` for a template of one's own.
        template: The prompt, with `{question}` exactly once; the answer follows it directly.
        lines_end_answers: Whether a newline ends an answer, once something other than white space was written.
        end_token: Token that ends an answer besides the tokenizer's and the model's end tokens, "" for none.
        adds_special_tokens: Whether the tokenizer puts its special tokens in front of a prompt that does not begin with BOS. A
            chat template writes those that it wants.
        reason: Why the format was chosen, in one sentence.

    Raises:
        ValueError: The template does not hold `{question}` exactly once.
    """

    name: PromptName
    template: str
    lines_end_answers: bool = True
    end_token: str = ""
    adds_special_tokens: bool = True
    reason: str = "given"

    def __post_init__(self) -> None:
        if self.template.count(QUESTION) != 1:
            raise ValueError(f"prompt: {self.template!r} must hold {QUESTION} exactly once")

    @property
    def answer_end(self) -> str:
        """What is written after an answer in this format: a newline, the end-of-turn token, or nothing."""
        return LINE_END if self.lines_end_answers else self.end_token

    @property
    def edges(self) -> tuple[str, str]:
        """What stands before the question, and after it."""
        before, after = self.template.split(QUESTION)
        return before, after

    def ask(self, question: str) -> str:
        """Write the prompt of a question."""
        return question.join(self.edges)

    def fits(self, text: str) -> bool:
        """Tell whether a text can be a prompt in this format."""
        before, after = self.edges
        return len(text) >= len(before + after) and text.startswith(before) and text.endswith(after)

    def question_of(self, prompt: str) -> str:
        """Return the question that `ask` made this prompt of.

        Raises:
            ValueError: The prompt is not in this format.
        """
        before, after = self.edges
        if not self.fits(prompt):
            raise ValueError(f"a prompt does not have the format {self.template!r} that its probe names")
        return prompt[len(before) : len(prompt) - len(after)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `PromptFormat(**values)` makes the format again."""
        return asdict(self)


PLAIN = PromptFormat(name="plain", template=f"{QUESTION}{LINE_END}", reason="the default: a question on its own line")
QA = PromptFormat(name="qa", template=f"Question: {QUESTION}{LINE_END}Answer:")
TEXT = PromptFormat(name="own", template=QUESTION, reason="the text of the training data, as the record has it")
"""The format of training texts: nothing stands around them."""
_NAMED = {"plain": PLAIN, "qa": QA}


def named_format(prompt: str | PromptFormat) -> PromptFormat:
    """Return the format that is named or written out; formats that need no model.

    Args:
        prompt: `plain`, `qa`, a text with `{question}`, or a format, which is returned.

    Raises:
        ValueError: `chat` or `auto`, which need the model, another name, or a text without `{question}`, with it twice, or with
            another brace.
    """
    if isinstance(prompt, PromptFormat):
        return prompt
    if not isinstance(prompt, str):
        raise ValueError(
            f"prompt: expected a text or a PromptFormat, got {type(prompt).__name__}; use {', '.join(map(repr, _NAMED))}, or a "
            f"text with {QUESTION}"
        )
    if prompt in ("chat", "auto"):
        raise ValueError(
            f"prompt {prompt!r} depends on the model's tokenizer; pass prompt=prompt_format(model, {prompt!r})"
        )
    if prompt in _NAMED:
        return _NAMED[prompt]
    known = (*_NAMED, "chat", "auto")
    if QUESTION not in prompt:
        raise ValueError(
            f"prompt: {prompt!r} must hold {QUESTION} exactly once, or be one of {', '.join(known)}{hint(prompt, known)}"
        )
    check_template(prompt, (QUESTION,), where="prompt")
    return PromptFormat(name="own", template=prompt, reason="written out by the user")
