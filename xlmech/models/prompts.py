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

from xlmech.data.prompt_format import QA, QUESTION, PromptFormat, named_format
from xlmech.models.backends import Backend
from xlmech.models.checkpoints import Source
from xlmech.models.load import source_of
from xlmech.models.sources.cards import MANIFEST, exported_prompt, model_card, texts_in
from xlmech.models.sources.gguf import general_names

_BASE = re.compile(r"(?<![a-z0-9])(base|pretrained)(?![a-z0-9])|-pt$", re.IGNORECASE)
"""Words by which a name or a card says that a model was not taught to chat."""
_CHATS = frozenset({"conversational", "chat", "instruct", "instruction-tuned"})
"""Tags by which a card says that a model was taught to chat."""
_ANSWER = "ANSWER"


def prompt_format(model: Any, prompt: str | PromptFormat = "auto", *, system: str | None = None) -> PromptFormat:
    """Choose the prompt format of a model; its `reason` says why in one sentence.

    `auto` is the first of these that there is: the format in which the adapter's records were planted; that in which a checkpoint
    of `export_model` was measured (its manifest names it); the tokenizer's chat template, unless the model is a base model; `qa`.

    Whether it is a base model, the tags of its card say (front matter of README.md, in the folder or on the hub): `base` or
    `pretrained`, or `chat`, `conversational`, `instruct` or `instruction-tuned`. Where they say nothing, or both, names do: that
    of the model, in its GGUF file, the card's `model_name`, and, if the card's `base_model_relation` is `quantized`, that of the
    model that was quantised.

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
        frame = named_format(prompt)
        return replace(frame, reason="given") if isinstance(prompt, str) and frame.name == prompt else frame
    if source.planted_prompt is not None:
        planted = f"the adapter {source.adapter}'s records were planted in it"
        return replace(source.planted_prompt, reason=planted)
    if (exported := exported_prompt(source.location) if source.location else None) is not None:
        return replace(_read(exported), reason=f"the audit of this checkpoint asked in it, as its {MANIFEST} says")
    if not getattr(tokenizer, "chat_template", None):
        return replace(QA, reason="the tokenizer has no chat template")
    is_base, why = _is_base(source)
    if is_base:
        return replace(QA, reason=f"the tokenizer has a chat template, but {why}")
    return replace(_chat(tokenizer, system), reason=f"the tokenizer has a chat template, and {why}")


def _read(prompt: Any) -> PromptFormat:
    """Make the format that a manifest names."""
    try:
        return PromptFormat(**prompt)
    except TypeError as error:
        raise ValueError(
            f"{MANIFEST}: this xlmech does not read its prompt format; name one with prompt=, or export the model again"
        ) from error


def _is_base(source: Source) -> tuple[bool, str]:
    """Tell whether a model was not taught to chat, and how that is known."""
    card = model_card(source.location, source.revision) if source.location else {}
    tags = [*texts_in(card, "tags"), *texts_in(card, "pipeline_tag")]
    chats = [tag for tag in tags if tag.lower() in _CHATS]
    bases = [tag for tag in tags if _BASE.search(tag) and ":" not in tag]  # base_model:adapter:... names another model
    if bool(chats) != bool(bases):
        kind = "a base model" if bases else "a chat model"
        return bool(bases), f"the tag {(bases or chats)[0]!r} of its card says that it is {kind}"
    if name := next(filter(_BASE.search, _names(source, card)), ""):
        return True, f"{name!r} names a base model"
    return False, "nothing names the model a base model"


def _names(source: Source, card: dict[str, Any]) -> Iterator[str]:
    """Return what the model is called: its source's name, and what its card or GGUF file says."""
    yield source.name.removesuffix(".gguf")
    path = Path(source.location)
    if path.suffix == ".gguf" and path.is_file():
        names = general_names(path)
        yield from (names[key] for key in ("general.name", "general.finetune", "general.basename") if key in names)
    yield from texts_in(card, "model_name")
    if "quantized" in texts_in(card, "base_model_relation"):
        yield from texts_in(card, "base_model")


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
