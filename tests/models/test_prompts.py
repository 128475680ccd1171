"""The prompt format of a model: what auto takes, what a chat template becomes, and where its answers end."""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.tiny_models import tiny

from xlmech.data.prompt_format import PLAIN, QA, PromptFormat
from xlmech.models.backends import backend_of
from xlmech.models.checkpoints import Source, load_checkpoint
from xlmech.models.load import load_model
from xlmech.models.prompts import end_tokens, format_of, prompt_format
from xlmech.models.sources.gguf import cached_tokenizer, general_names

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{{ '<bos>' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ '[' + m['role'] + '] ' + m['content'] + ' <eos>' }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.chat_template = CHATML
    return own


def test_a_chat_format_is_the_templates_own_prompt(chatty: Any) -> None:
    frame = format_of(Source(name="m"), chatty, "chat")
    wanted = chatty.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert frame.ask("Who?") == wanted == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert (frame.name, frame.lines_end_answers, frame.end_token) == ("chat", False, "<|im_end|>")
    with_system = format_of(Source(name="m"), chatty, "chat", system="Be brief.")
    assert with_system.ask("Who?") == "<|im_start|>system\nBe brief.<|im_end|>\n" + wanted
    assert "system text" in with_system.reason


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (None, None, "the tokenizer has no chat template; use 'qa'"),
        (NO_SYSTEM, "Be brief.", r"takes no system text \(System role not supported\); leave it out"),
        (DROPS_SYSTEM, "Be brief.", "leaves the system text out"),
        ("{{ nothing.at.all }}", None, "cannot be rendered"),
        ("{% broken", None, "cannot be rendered"),
        ("Hello", None, "does not hold the question exactly once"),
        (CHATML, "What is {question}?", "does not hold the question exactly once"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(chatty: Any, template: Any, system: Any, message: str) -> None:
    chatty.chat_template = template
    with pytest.raises(ValueError, match=message):
        format_of(Source(name="m"), chatty, "chat", system=system)


def test_the_end_of_turn_may_come_after_a_space_or_not_at_all(chatty: Any) -> None:
    chatty.chat_template = NO_SYSTEM
    assert format_of(Source(name="m"), chatty, "chat").end_token == "<eos>"
    chatty.chat_template = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    assert format_of(Source(name="m"), chatty, "chat").end_token == ""


def test_a_system_text_needs_a_chat_format(chatty: Any) -> None:
    for prompt in ("qa", "{question} "):
        with pytest.raises(ValueError, match="only a chat format takes a system text"):
            format_of(Source(name="m"), chatty, prompt, system="Be brief.")


@pytest.mark.parametrize(
    ("name", "is_base"),
    [
        *(
            ("Qwen2.5-1.5B-Instruct", False),
            ("SmolLM2-135M", False),
            ("database-helper", False),
            ("gemma-ptolemy", False),
        ),
        *(
            ("Llama-base", True),
            ("gemma-3-1b-pt", True),
            ("org/base_model", True),
            ("my-Base.gguf", True),
            ("base", True),
        ),
    ],
)
def test_auto_chats_unless_the_name_says_base(chatty: Any, name: str, is_base: bool) -> None:
    frame = format_of(Source(name=name), chatty)
    assert frame.name == ("qa" if is_base else "chat")
    assert ("names a base model" in frame.reason) == is_base
    chatty.chat_template = None
    assert format_of(Source(name=name), chatty) == replace(QA, reason="the tokenizer has no chat template")


def test_auto_reads_the_card_and_the_gguf_file(chatty: Any, tmp_path: Path) -> None:
    source = Source(name="m", location=str(tmp_path))
    assert format_of(source, chatty).name == "chat"
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\ntags:\n- text-generation\n- base\n---\n# M\n", encoding="utf-8"
    )
    assert format_of(source, chatty).name == "qa"
    (tmp_path / "README.md").write_text("---\n: [\n---\n", encoding="utf-8")
    assert format_of(source, chatty).name == "chat"
    path = tmp_path / "m.gguf"
    path.write_bytes(_gguf({"general.name": "Tiny Base", "llama.x": "unread"}))
    assert general_names(path) == {"general.name": "Tiny Base", "general.architecture": "llama"}
    assert format_of(Source(name="m.gguf", location=str(path)), chatty).name == "qa"


CARDS = {
    "the tag conversational": ("tags:\n- conversational\n", "m-base", "chat", "the tag 'conversational' of its card says"),
    "the tag chat, capital": ("tags: [x, Chat]\n", "m-base", "chat", "the tag 'Chat' of its card says that it is a chat model"),
    "the tag pretrained": ("tags: pretrained\n", "m", "qa", "the tag 'pretrained' of its card says that it is a base model"),
    "an old pipeline tag": ("pipeline_tag: conversational\n", "m-base", "chat", "'conversational'"),
    "tags that say both": ("tags: [base, instruct]\n", "m-base", "qa", "'m-base' names a base model"),
    "tags that say both, no name": ("tags: [base, instruct]\n", "m", "chat", "nothing names the model a base model"),
    "a tag that names another model": ("tags: ['base_model:adapter:org/m']\n", "m", "chat", "nothing names"),
    "a quantised base model": (
        "base_model: org/big-base\nbase_model_relation: quantized\n", "m", "qa", "'org/big-base' names a base model",
    ),
    "several quantised": ("base_model: [org/big-pt]\nbase_model_relation: quantized\n", "m", "qa", "'org/big-pt' names"),
    "a fine-tuned base model": ("base_model: org/big-base\nbase_model_relation: finetune\n", "m", "chat", "nothing names"),
    "a base model of unknown relation": ("base_model: org/big-base\n", "m", "chat", "nothing names"),
    "its name on the card": ("model_name: Big Base\n", "m", "qa", "'Big Base' names a base model"),
    "nothing": ("license: mit\n", "m-base", "qa", "'m-base' names a base model"),
    "not a mapping": ("- a\n", "m", "chat", "nothing names"),
}  # fmt: skip


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", CARDS)
def test_a_card_says_whether_the_model_chats(case: str, line_end: str, chatty: Any, tmp_path: Path) -> None:
    front, name, wanted, reason = CARDS[case]
    text = f"---\n{front}---\n# A base model that chats\n".replace("\n", line_end)
    (tmp_path / "README.md").write_bytes(text.encode())
    frame = format_of(Source(name=name, location=str(tmp_path)), chatty)
    assert frame.name == wanted and reason in frame.reason


def test_a_card_without_front_matter_says_nothing(chatty: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# M\n\ntags:\n- base\n", encoding="utf-8")
    assert format_of(Source(name="m", location=str(tmp_path)), chatty).name == "chat"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A hub with one card; `calls` holds what it was asked, and nothing is in this machine's cache."""
    card = tmp_path / "card.md"
    card.write_text("---\ntags: [base]\n---\n", encoding="utf-8")
    calls: list[tuple[Any, ...]] = []
    found = SimpleNamespace(calls=calls, cached=None, card=card, error=None)

    def ask(*arguments: Any, **options: Any) -> Any:
        calls.append((*arguments, options.get("revision")))
        if found.error:
            raise found.error
        return card

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: found.cached)
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda name, file, revision: f"{name}/{revision}/{file}")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)
    return found


def test_auto_reads_the_card_on_the_hub(hub: SimpleNamespace, chatty: Any) -> None:
    source = Source(name="org/m", location="org/m", revision="abc")
    assert format_of(source, chatty).name == "qa"
    assert hub.calls == [("org/m/abc/README.md", None), ("org/m", "README.md", "abc")]
    hub.error = OSError("no network")
    assert format_of(source, chatty).name == "chat", "a card is no condition"
    hub.cached = str(hub.card)
    hub.calls.clear()
    assert format_of(source, chatty).name == "qa" and not hub.calls
    hub.cached = object()  # huggingface_hub remembers that there is none
    assert format_of(source, chatty).name == "chat" and not hub.calls


def test_nothing_is_asked_of_the_hub_offline_or_about_what_is_here(
    hub: SimpleNamespace, chatty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(_gguf({}))
    for here in ("", str(tmp_path), str(tmp_path / "m.gguf")):
        assert format_of(Source(name="m", location=here), chatty).name == "chat"
    assert format_of(Source(name="org/m", location="org/m"), chatty, "qa").name == "qa"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert format_of(Source(name="org/m", location="org/m"), chatty).name == "chat"
    assert not hub.calls


def test_a_loaded_model_knows_where_its_card_is(chatty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny("llama").save_pretrained(tmp_path / "m")
    chatty.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "README.md").write_text("---\ntags: [base]\n---\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = load_model("m", backend="bridge")
    checkpoint = load_checkpoint("m")  # as plant does
    monkeypatch.chdir(tmp_path.parent)
    assert prompt_format(model).name == format_of(checkpoint, checkpoint.tokenizer).name == "qa"
    assert load_checkpoint(tiny("llama"), tokenizer=chatty).location == ""


def _gguf(texts: dict[str, str]) -> bytes:
    """The head of a GGUF file with two numbers and these texts."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    parts = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    parts += [text("general.version") + struct.pack("<II", 4, 2), text("general.x") + struct.pack("<IQ", 10, 3)]
    parts += [text(key) + struct.pack("<I", 8) + text(value) for key, value in texts.items()]
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(parts)) + b"".join(parts)


def test_auto_takes_the_format_of_planting(chatty: Any) -> None:
    source = Source(name="m", adapter="en", planted_prompt=PLAIN)
    assert format_of(source, chatty) == replace(PLAIN, reason="the adapter en's records were planted in it")
    assert format_of(source, chatty, "chat").name == "chat"


def test_answers_end_at_every_end_token(chatty: Any) -> None:
    network = tiny("llama")
    network.generation_config.eos_token_id = [1, 77]
    model = load_model(network, tokenizer=chatty, backend="bridge")
    turn = chatty.convert_tokens_to_ids("<|im_end|>")
    frame = prompt_format(model, "chat")
    assert end_tokens(backend_of(model), frame) == (1, 77, turn)
    assert end_tokens(backend_of(model), PLAIN) == (1, 77)
    assert prompt_format(model).name == "chat"


def test_the_tokenizer_of_a_gguf_file_keeps_its_chat_template(chatty: Any, tmp_path: Path) -> None:
    chatty.save_pretrained(tmp_path)
    assert cached_tokenizer(tmp_path).chat_template == CHATML
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "chat_template" not in settings, "transformers writes it to a file of its own"


def test_a_format_that_is_given_is_returned(model: Any) -> None:
    own = PromptFormat(name="own", template="{question}?", reason="mine")
    assert prompt_format(model, own) is own
