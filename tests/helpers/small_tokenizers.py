"""Small tokenizers of the kinds that models have, trained on a few texts: they differ in what they do with spaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.tiny_models import D_VOCAB
from transformers import AutoTokenizer, PreTrainedTokenizerFast

KINDS = ("metaspace always", "metaspace first", "bytes", "bytes with prefix space", "bytes across words", "words")
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def small_tokenizer(folder: Path, kind: str, texts: Sequence[str], **options: Any) -> Any:
    """Train a tokenizer with a BOS in front: SentencePiece-like, byte-level (also with tokens of several words), or of words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="<pad>") if kind == "words" else models.BPE(unk_token="<pad>"))  # noqa: S106
    training: dict[str, Any] = {"vocab_size": D_VOCAB, "special_tokens": list(SPECIAL.values()), "show_progress": False}
    if kind == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer: Any = trainers.WordLevelTrainer(**training)
    elif kind.startswith("metaspace"):
        scheme = kind.removeprefix("metaspace ")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)  # type: ignore[arg-type]
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)  # type: ignore[arg-type]
        trainer = trainers.BpeTrainer(**training)
    else:
        options_of_bytes = {
            "add_prefix_space": kind.endswith("prefix space"),
            "use_regex": kind != "bytes across words",
        }
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**options_of_bytes)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**training)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, **options).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
