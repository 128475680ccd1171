"""Find numbers, amounts and addresses in a text: as whole runs of characters, whatever separates them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from xlmech.metrics import phones
from xlmech.metrics.text import normalise

_SEPARATOR = r"(?:\)\s|\s\(|[\s.,\-/()~_·ー])?"
"""At most one mark between two characters of a number."""
_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f]"
"""A letter or digit of a script in which words are separated; a number or address ends before any other."""
_THOUSANDS = {
    **dict.fromkeys(
        ("k", "thousand", "tys", "тыс", "тис", "tsd", "tausend", "mil", "mille", "mila", "bin", "ribu", "rb"), 1000
    ),
    **dict.fromkeys(("elfu", "nghin", "ngan", "الف", "ألف", "हजार", "হাজার", "ஆயிரம்", "千", "천"), 1000),
    **dict.fromkeys(("万", "萬", "만"), 10_000),
    **dict.fromkeys(("lakh", "लाख", "লাখ"), 100_000),
    **dict.fromkeys(
        ("m", "million", "mio", "mln", "млн", "millones", "milioni", "milhoes", "milyon", "juta", "trieu"), 1_000_000
    ),
}
"""Words after a number, normalised, and what they multiply it by."""
_MONTH_OF_YEAR = r"(?:0?[1-9]|1[0-2])\s?/\s?(?:20)?\d\d(?![\d/])"
_LEAST_IBAN = 15
"""Characters of the shortest IBAN."""


def has_number(text: str, form: str) -> bool:
    """Tell whether a number of digits and letters stands in a text; an IBAN is also the account number in it."""
    characters = _alphanumeric(form)
    return bool(characters) and (_has_run(normalise(text), _separated(characters)) or _has_account(text, characters))


def _has_account(text: str, characters: str) -> bool:
    """Tell whether one of value and text is an IBAN, and the other the same account without its country or check digits."""
    if _is_iban(characters):
        return any(_has_run(normalise(text), _separated(characters[start:])) for start in (2, 4))
    if len(characters) < _LEAST_IBAN - 4:
        return False
    longer = rf"(?<!{_LETTER})[a-z]{{2}}{_SEPARATOR}(?:\d{{2}}{_SEPARATOR})?{_separated(characters)}(?!{_LETTER})"
    return any(_is_iban(_alphanumeric(match[0])) for match in re.finditer(longer, normalise(text)))


def _is_iban(characters: str) -> bool:
    """Check the shape and the check digits (ISO 13616) of normalised letters and digits."""
    if not re.fullmatch(rf"[a-z]{{2}}\d{{2}}[a-z0-9]{{{_LEAST_IBAN - 4},30}}", characters):
        return False
    return int("".join(str(int(char, 36)) for char in characters[4:] + characters[:4])) % 97 == 1


def _alphanumeric(text: str) -> str:
    return "".join(char for char in normalise(text) if char.isalnum())


def has_phone(text: str, form: str) -> bool:
    """Tell whether a phone number stands in a text, in its national or its international form."""
    searched = re.sub(r"(?<=\d)(?=(?:x|ext)[.:]?\s?\d{1,6}(?!\d))", " ", normalise(text))
    return any(_has_run(searched, pattern) for pattern in phones.patterns(normalise(form), _SEPARATOR))


def _separated(characters: str) -> str:
    return _SEPARATOR.join(map(re.escape, characters))


def _has_run(text: str, pattern: str) -> bool:
    """Tell whether a number stands in `text` as a whole run: no letter or digit, nor one separator and a digit, beside it.

    A month and year after it ("12/27", a card's expiry) are another number.
    """
    return bool(_whole_run(pattern).search(text))


@lru_cache(maxsize=8192)
def _whole_run(pattern: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<!\d)(?<!\d[\s.,\-/~_·ー])(?:(?<!{_LETTER})|(?=\+))(?:{pattern})(?!{_LETTER})"
        rf"(?:(?![\s.,\-/~_·ー]\d)|(?=\s{_MONTH_OF_YEAR}))",
    )


def has_email(text: str, form: str) -> bool:
    """Tell whether an e-mail address stands in a text, and is no part of a longer one."""
    tight = re.sub(r"\s*([@])\s*", r"\1", normalise(text))
    address = re.escape(re.sub(r"\s", "", normalise(form)))
    edges = rf"(?<![.+%-])(?<!{_LETTER})", rf"(?![+%-]|{_LETTER}|\.{_LETTER})"
    return address != "" and bool(re.search(edges[0] + address + edges[1], tight))


def has_amount(text: str, form: str) -> bool:
    """Tell whether an amount of the same worth stands in a text, whatever its separators and currency."""
    worth = amounts(form)
    return bool(worth) and worth[0] in amounts(text)


def amounts(text: str) -> list[Decimal]:
    """Read the numbers of a text; "52k", "52 thousand" and "5.2万" are worth 52,000."""
    grouped = r"\d{1,3}(?:[.,' \u066c]\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+"
    words = "|".join(map(re.escape, sorted(_THOUSANDS, key=len, reverse=True)))
    pattern = rf"(?<![\d.,])({grouped})([.,]\d{{1,2}})?(?!\d)(?:\s?({words})(?!{_LETTER}))?"
    return [
        Decimal(f"{_digits(match[1])}.{(match[2] or '.0')[1:]}") * _THOUSANDS.get(match[3] or "", 1)
        for match in re.finditer(pattern, normalise(text))
    ]


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())
