"""The prompt format of a model: its planting's, its tokenizer's chat template, or one that needs neither.

frame = prompt_format(model)                      # which one, and why: frame.name, frame.reason
frame = prompt_format(model, "chat", system="Answer in one word.")
probes = build_probes(records, ["en", "fr"], prompt=frame)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from ruamel.yaml import YAML, YAMLError

from xlmech.data.prompt_format import QA, QUESTION, PromptFormat, named_format
from xlmech.models.backends import Backend
from xlmech.models.checkpoints import Source
from xlmech.models.load import source_of
from xlmech.models.sources.gguf import general_names

_BASE = re.compile(r"(?<![a-z0-9])(base|pretrained)(?![a-z0-9])|-pt$", re.IGNORECASE)
"""Words by which a name or a card says that a model was not taught to chat."""
_ANSWER = "ANSWER"


def prompt_format(model: Any, prompt: str | PromptFormat = "auto", *, system: str | None = None) -> PromptFormat:
    """Choose the prompt format of a model; its `reason` says why in one sentence.

    `auto` is the format in which the adapter's records were planted, if one is known; else the tokenizer's chat template, unless
    the model's name, card or GGUF file calls it a base model; else `qa`.

    Args:
        model: Hooked model.
        prompt: `auto`, `chat`, `plain`, `qa`, a text with `{question}`, or a format, which is returned.
        system: System text in front of the conversation, for `chat` only; the template's own by default.

    Raises:
        ValueError: The tokenizer has no chat template, or one that fails or takes no system text; a system text without a chat
            format; or what `named_format` refuses.
    """
    source = source_of(model)
    tokenizer = source.tokenizer if source.tokenizer is not None else getattr(model, "tokenizer", None)
    return format_of(source, tokenizer, prompt, system=system)


def format_of(
    source: Source, tokenizer: Any, prompt: str | PromptFormat = "auto", *, system: str | None = None
) -> PromptFormat:
    """Choose the prompt format of a model that comes from `source`, as `prompt_format` does."""
    chosen = _chosen(source, tokenizer, prompt, system)
    if system is not None and chosen.name != "chat":
        raise ValueError(
            f"system: only a chat format takes a system text, and the prompt format is {chosen.name!r} ({chosen.reason}); leave "
            "it out, or use prompt 'chat'"
        )
    return chosen


def end_tokens(backend: Backend, frame: PromptFormat) -> tuple[int, ...]:
    """Return the tokens that end an answer in this format: the tokenizer's, the model's, and the format's, sorted."""
    tokenizer, source = backend.tokenizer, source_of(backend.model)
    ids = {tokenizer.eos_token_id, *source.end_tokens}
    if frame.end_token:
        ids.add(tokenizer.convert_tokens_to_ids(frame.end_token))
    return tuple(sorted(token for token in ids if token is not None))


def _chosen(source: Source, tokenizer: Any, prompt: str | PromptFormat, system: str | None) -> PromptFormat:
    if prompt == "chat":
        return _chat(tokenizer, system)
    if prompt != "auto":
        return named_format(prompt)
    if source.planted_prompt is not None:
        planted = f"the adapter {source.adapter}'s records were planted in it"
        return replace(source.planted_prompt, reason=planted)
    if not getattr(tokenizer, "chat_template", None):
        return replace(QA, reason="the tokenizer has no chat template")
    if name := next(filter(_BASE.search, _names(source)), ""):
        return replace(QA, reason=f"the tokenizer has a chat template, but {name!r} names a base model")
    return replace(
        _chat(tokenizer, system), reason="the tokenizer has a chat template, and nothing names the model a base model"
    )


def _names(source: Source) -> Iterator[str]:
    """Return what the model is called: its source's name, and what its card or GGUF file says."""
    yield source.name.removesuffix(".gguf")
    path = Path(str((source.recipe or {}).get("source", "")))
    if path.suffix == ".gguf" and path.is_file():
        names = general_names(path)
        yield from (names[key] for key in ("general.name", "general.finetune", "general.basename") if key in names)
    elif (path / "README.md").is_file():
        yield from _card_names(path / "README.md")


def _card_names(path: Path) -> Iterator[str]:
    """Return the model's name and tags in the front matter of its card; none where it cannot be read."""
    _, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    try:
        card = YAML(typ="safe", pure=True).load(rest.partition("\n---")[0])
    except YAMLError:
        return
    if isinstance(card, dict):
        yield str(card.get("model_name") or "")
        yield from map(str, card.get("tags") or ())


def _chat(tokenizer: Any, system: str | None) -> PromptFormat:
    """Make a format of the tokenizer's chat template, with its generation prompt."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "prompt 'chat': the tokenizer has no chat template; use 'qa', 'plain' or a text with {question}"
        )
    opening = [] if system is None else [{"role": "system", "content": system}]
    opening.append({"role": "user", "content": QUESTION})
    template = _render(tokenizer, opening, system, generate=True)
    if template.count(QUESTION) != 1:
        raise ValueError(
            "prompt 'chat': the chat template does not hold the question exactly once (does the system text hold {question}?); "
            "write the prompt out as a text with {question}"
        )
    if system is not None and system.strip() not in template:
        raise ValueError(
            "system: the tokenizer's chat template leaves the system text out; leave it out too, or write the prompt out as a "
            "text with {question}"
        )
    return PromptFormat(
        name="chat",
        template=template,
        lines_end_answers=False,
        end_token=_end_of_turn(tokenizer, opening, system),
        adds_special_tokens=False,  # as apply_chat_template(tokenize=True) encodes it
        reason="the tokenizer's chat template" + (", with a system text" if system is not None else ""),
    )


def _end_of_turn(tokenizer: Any, opening: list[dict[str, str]], system: str | None) -> str:
    """Return the first special token that the template writes after an assistant's message, "" if it writes none."""
    turn = [*opening, {"role": "assistant", "content": _ANSWER}]
    after = _render(tokenizer, turn, system, generate=False).rpartition(_ANSWER)[2]
    added = {token: number for token, number in tokenizer.get_added_vocab().items() if token.strip()}
    special = {*tokenizer.all_special_ids, *added.values()}
    ids = tokenizer(after, add_special_tokens=False).input_ids
    found = next((token for token in ids if token in special), None)
    return "" if found is None else str(tokenizer.convert_ids_to_tokens(found))


def _render(tokenizer: Any, messages: list[dict[str, str]], system: str | None, *, generate: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if system is not None:
            raise ValueError(
                f"system: the tokenizer's chat template takes no system text ({reason}); leave it out"
            ) from error
        raise ValueError(
            f"prompt 'chat': the tokenizer's chat template cannot be rendered ({reason}); use 'qa', 'plain' or a text with "
            "{question}"
        ) from error
