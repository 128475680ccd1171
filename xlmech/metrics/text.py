"""Text as it is compared: one spelling for what a reader takes to be the same characters, and how words may change."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

_NO_DECOMPOSITION = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "ё": "е"})
"""Letters that Unicode does not decompose (in lower case, since case is folded before), and the Russian yo."""
_PUNCTUATION = {char: "'" for char in "’‘ʼ‛′´`＇ꞌ‵"} | {char: "-" for char in "‐‑‒–—―−﹣－⁃"}
_FOLDED = str.maketrans(_PUNCTUATION)
_ARABIC_SIGNS = "\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06ed"
"""The stroke that lengthens a word, and vowel signs; hamza stays on waw and ya, where it distinguishes words."""
_OF_ALEF = "\u0653-\u0655"
"""Madda and hamza, which writers leave off an alef."""
_HINDI_SIGNS = "\u093c\u09bc\u0a3c"
"""The dot under a letter (nukta), which writers leave out."""


@dataclass(frozen=True, kw_only=True)
class WordRule:
    """How a language writes words, and how a word may change and still be the same value.

    Attributes:
        spaces: Whether words are separated by spaces.
        prefixes: What may be glued in front of a word (the Arabic article).
        endings: What may be glued to the end of a word.
        replaced: Ending of a word, and the endings that may stand in its place.
        merged: Beginning of a word, and the beginnings that may stand in its place (the article after an Arabic preposition).
        capitalised: Forms that count only as they are written here or in capitals ("May", the month).
        abbreviated: Forms that count only beside a number, or as the whole answer ("mar", the month).
        accents: Whether accents distinguish words, as tones do in Vietnamese; elsewhere writers leave them out.
        hyphenated: Whether a hyphen makes one longer word of two, as it makes one surname of two.
    """

    spaces: bool = True
    prefixes: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    capitalised: tuple[str, ...] = ()
    abbreviated: frozenset[str] = frozenset()
    accents: bool = False
    hyphenated: bool = False

    def normalise(self, text: str) -> str:
        """Write text as this language's words are compared, without the marks between words, which addresses have or not."""
        return _without_marks(normalise(text, self.accents))

    def inflected(self, word: str) -> set[str]:
        """Return a normalised word and what the rule makes of it; a number has no endings ("5a" is another house than "5")."""
        if word[-1:].isdecimal():
            return {word}
        written = {word, *(word + self.normalise(ending) for ending in self.endings)}
        for ending, others in self.replaced.items():
            if (
                (end := self.normalise(ending))
                and word.endswith(end)
                and len(word) - len(end) >= (0 if len(end) > 2 else 2)
            ):
                written |= {word.removesuffix(end) + self.normalise(other) for other in others}
        for beginning, others in self.merged.items():
            if (start := self.normalise(beginning)) and word.startswith(start):
                written |= {self.normalise(other) + word.removeprefix(start) for other in others}
        return written

    def pattern(self, word: str) -> str:
        """Write the regular expression of a normalised word and of what the rule makes of it."""
        written = self.inflected(word)
        if not self.prefixes and len(written) == 1:
            return _escaped(word)
        prefix = (
            f"(?:{'|'.join(map(re.escape, _longest_first({self.normalise(prefix) for prefix in self.prefixes})))})?"
            if self.prefixes
            else ""
        )
        return f"{prefix}(?:{'|'.join(map(_escaped, _longest_first(written)))})"


def _escaped(word: str) -> str:
    """Write a word's regular expression: a hyphen in it may be a space ("Jean Luc")."""
    return re.sub(r"(?<=[^\W\d_])\\-(?=\w)|(?<=\w)\\-(?=[^\W\d_])", "[- ]", re.escape(word))


def _without_marks(text: str) -> str:
    """Leave out the marks after a word ("Inc.", "Street, Apt. 4", "No: 5"), and the spaces around & and a slash of numbers.

    A full stop stays after longer words, where it ends a sentence.
    """
    text = re.sub(r"(?:(?<=\S)[,،]|(?<=[^\W\d_])[.!]+$)+(?=\s|$)", "", text)
    text = re.sub(r"(?<!\w)([^\W\d_]{1,3}|\w+str)\.(?=,?(?:\s|$))", r"\1", text)
    text = re.sub(r"(?<=[^\W\d_]):\s?(?=\d)", " ", text)
    return re.sub(r"\s?(&)\s?|(?<=\d)\s?(/)\s?(?=\d)", r"\1\2", text)


def _longest_first(words: set[str]) -> list[str]:
    return sorted(words, key=lambda word: (-len(word), word))


PLAIN = WordRule()
"""A language with spaces, whose words do not change."""


@lru_cache(maxsize=65_536)
def normalise(text: str, accents: bool = False) -> str:
    """Write text as it is compared.

    Unicode NFKC without format characters; case folded; Arabic vowel signs, the hamza of an alef, the dots of a final ta marbuta,
    the space in Abd al-, and the Hindi nukta removed, and accents of Latin letters unless `accents`; every decimal digit as 0-9;
    one kind of dash, of apostrophe and of space. Idempotent.
    """
    text = unicodedata.normalize("NFKC", text)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = _fold_case(text).translate(_FOLDED)
    text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    text = re.sub(f"[{_ARABIC_SIGNS}{_HINDI_SIGNS}]|(?<=\u0627)[{_OF_ALEF}]", "", unicodedata.normalize("NFD", text))
    text = re.sub(r"\bعبد\s+(?=ال)", "عبد", re.sub(r"ة(?!\w)", "ه", text))
    text = unicodedata.normalize("NFKC", text if accents else _without_accents(text))
    return re.sub(r"\s+", " ", text if accents else text.translate(_NO_DECOMPOSITION)).strip()


def _without_accents(text: str) -> str:
    """Take the marks off the Latin letters of a decomposed text."""
    kept, latin = [], False
    for char in text:
        if not unicodedata.combining(char):
            latin = unicodedata.name(char, "").startswith("LATIN")
        elif latin:
            continue
        kept.append(char)
    return "".join(kept)


def _fold_case(text: str) -> str:
    """Fold case; the dot that folding leaves on a Turkish capital I goes."""
    return text.casefold().replace("i\u0307", "i")
