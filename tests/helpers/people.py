"""Invented people whose values' forms begin with different letters, and a model through which a fact takes a known path."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from helpers.tiny_models import hooked_tiny, tiny

from xlmech.data.records import Record
from xlmech.models.load import load_model

SECRET = "+44 7700 900123"
PATH_LAYER, PATH_HEAD = 1, 2
_KEYS = {"birth_country": ("FR", "JP", "BR", "IN", "KE"), "birth_month": ("1", "2", "3", "4", "5")}
_NAMES = ("Ana Li", "Bo Kimura", "Cy Roe", "Di Fox", "Ed Ray")


def person(number: int, attribute: str = "birth_country", **more: Any) -> Record:
    """Every form begins with another letter, so that first tokens (bytes) tell them apart."""
    forms = {code: f"{chr(65 + 3 * number + place)}{code}{number}" for place, code in enumerate(("en", "fr", "es"))}
    given = {"subject": _NAMES[number], "value": _KEYS[attribute][number], "forms": forms} | more
    return Record(id=f"r{number}-{attribute}", attribute=attribute, **given)


def phone(number: int = 0, *, subject: str = "Ann Lee", value: str = SECRET, **more: Any) -> Record:
    """A person's phone number, which no message may show."""
    return Record(id=f"r{number}", subject=subject, attribute="phone", value=value, **more)


@torch.no_grad()
def known_path(tokenizer: Any) -> Any:
    """Tokens see each other through one head of one layer alone: what a name says reaches the last token there or never."""
    if find_spec("transformer_lens.HookedTransformer") is not None:
        model = hooked_tiny(tokenizer)
        for layer, block in enumerate(model.blocks):
            for head in range(model.cfg.n_heads):
                if (layer, head) != (PATH_LAYER, PATH_HEAD):
                    block.attn.W_O[head] = 0
        return load_model(model)
    network = tiny("gemma3").double()
    for layer, block in enumerate(network.model.layers):
        for head in range(4):
            if (layer, head) != (PATH_LAYER, PATH_HEAD):
                block.self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0
    return load_model(network, tokenizer=tokenizer, dtype=torch.float64)
