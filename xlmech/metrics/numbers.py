"""Find numbers, amounts and addresses in a text: as whole runs of characters, whatever separates them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache, lru_cache

from xlmech.metrics import phones
from xlmech.metrics.text import normalise

_SEPARATOR = r"(?:\)\s|\s\(|[\s.,\-/()~_·•ー])?"
"""At most one mark between two characters of a number."""
_SPACED_SEPARATOR = r"(?:\)\s?[-/]?\s?|\s\(|\s[-/]\s|[\s.,\-/()~_·•ー])?"
"""Also a dash or slash with spaces, in phone numbers of enough digits that two numbers are not taken for one."""
_LETTER = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f]"
"""A letter or digit of a script in which words are separated; a number or address ends before any other."""
_MYRIADS = {**dict.fromkeys(("万", "萬", "만"), 10_000), **dict.fromkeys(("亿", "億", "억"), 100_000_000)}
"""Units after which the rest of an amount may follow ("5万2千")."""
_THOUSANDS = {
    **dict.fromkeys(
        (
            *(
                "k",
                "thousand",
                "tys",
                "tysiac",
                "tysiace",
                "tysiecy",
                "tsd",
                "tausend",
                "mil",
                "mille",
                "mila",
                "bin",
                "ribu",
                "rb",
            ),
            *("тыс", "тысяча", "тысячи", "тысяч", "тис", "тисяча", "тисячі", "тисяч"),
        ),
        1000,
    ),
    **dict.fromkeys(("elfu", "nghin", "ngan", "الف", "الفا", "الاف", "हजार", "হাজার", "ஆயிரம்", "千", "천"), 1000),
    **_MYRIADS,
    **dict.fromkeys(("lakh", "लाख", "লাখ"), 100_000),
    **dict.fromkeys(("crore", "करोड", "কোটি"), 10_000_000),
    **dict.fromkeys(
        (
            *(
                "m",
                "million",
                "millions",
                "millionen",
                "mio",
                "mln",
                "milion",
                "miliony",
                "milionow",
                "millon",
                "millones",
            ),
            *("milione", "milioni", "milhao", "milhoes", "milyon", "juta", "jt", "trieu", "मिलियन"),
            *(
                "млн",
                "миллион",
                "миллиона",
                "миллионов",
                "мільйон",
                "мільйона",
                "мільйони",
                "мільйонів",
                "مليون",
                "百万",
                "백만",
            ),
        ),
        1_000_000,
    ),
}
"""Words after a number, normalised, and what they multiply it by."""
_MONTH_OF_YEAR = r"(?:0?[1-9]|1[0-2])\s?[/-]\s?(?:20)?\d\d(?![\d/-])"
_LONGEST_PHONE = 15
"""Digits of the longest phone number (E.164)."""
_LEAST_IBAN = 15
"""Characters of the shortest IBAN."""


def has_number(text: str, form: str) -> bool:
    """Tell whether a number of digits and letters stands in a text; an IBAN is also the account number in it."""
    characters = _alphanumeric(form)
    is_written = characters and any(_has_run(line, _separated(characters)) for line in _lines(text))
    return bool(characters) and (is_written or _has_account(text, characters))


def _has_account(text: str, characters: str) -> bool:
    """Tell whether one of value and text is an IBAN, and the other the same account without its country or check digits."""
    if _is_iban(characters):
        return any(_has_run(line, _separated(characters[start:])) for start in (2, 4) for line in _lines(text))
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
    is_long = sum(map(str.isdecimal, form)) >= phones.LONG_NUMBER
    number = phones.patterns(normalise(form), _SPACED_SEPARATOR if is_long else _SEPARATOR)
    runs = [_without_extension(run) for run in (*_lines(text), *(_parts_of_lists(text) if is_long else ()))]
    return any(_has_run(run, pattern) for run in runs for pattern in number)


def _without_extension(text: str) -> str:
    return re.sub(r"(?<=\d)(?=(?:x|ext)[.:]?\s?\d{1,6}(?!\d))", " ", text)


def _lines(text: str) -> list[str]:
    """Return a normalised text without the marks of italics round numbers, and its lines: a line may end a number."""
    lines = [text, *(text.splitlines() if "\n" in text else [])]
    return [re.sub(r"(?<!\w)_(?=[+(\d])|(?<=\d)_(?!\w)", " ", normalise(line)) for line in lines]


def _parts_of_lists(text: str) -> list[str]:
    """Return what spaces, commas and slashes divide in runs of digits longer than any phone number: lists of several."""
    runs = [match[0] for match in re.finditer(r"\+?\d(?:[\s.,\-/()+]{0,3}\d)*", normalise(text))]
    lists = [run for run in runs if sum(map(str.isdecimal, run)) > _LONGEST_PHONE]
    divided = [re.split(r"[\s,/]+", run) for run in lists]
    return [part for parts in divided if all(map(_may_be_phone, parts)) for part in parts]


def _may_be_phone(part: str) -> bool:
    return phones.LONG_NUMBER <= sum(map(str.isdecimal, part)) <= _LONGEST_PHONE


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
    tight = re.sub(r"\s*([@])\s*", r"\1", re.sub(r"\\(?=[\W_])", "", normalise(text)))
    tight = re.sub(r"(?<!\w)_(\S+@\S+)_(?!\w)", r"\1", tight)
    address = _spelt_out(re.sub(r"\s", "", normalise(form)))
    edges = rf"(?<![.+%-])(?<!\sdot\s)(?<!{_LETTER})", rf"(?![+%-]|{_LETTER}|\.{_LETTER})"
    return address != "" and bool(re.search(edges[0] + address + edges[1], tight))


def _spelt_out(address: str) -> str:
    """Write the regular expression of an address, whose marks may be words ("anna [at] example dot com")."""
    words = {"@": "at", ".": "dot"}
    return "".join(
        rf"(?:{re.escape(char)}|\s?[\[(]\s?{words[char]}\s?[\])]\s?|\s{words[char]}\s)"
        if char in words
        else re.escape(char)
        for char in address
    )


def has_amount(text: str, form: str) -> bool:
    """Tell whether an amount of the same worth stands in a text, whatever its separators and currency."""
    worth = amounts(form)
    return bool(worth) and worth[0] in amounts(text)


def amounts(text: str) -> list[Decimal]:
    """Read the numbers of a text; "52k", "52 thousand", "elfu 52", "5.2万" and "5万2千" are worth 52,000."""
    found: list[Decimal] = []
    end, unit = -2, 0
    for match in _amount_pattern().finditer(normalise(text)):
        multiplier = _THOUSANDS.get(match[1] or match[4] or "", 1)
        worth = Decimal(f"{_digits(match[2])}.{(match[3] or '.0')[1:]}") * multiplier
        is_rest = unit and match.start() - end <= 1 and worth < unit
        end, unit = match.end(), _MYRIADS.get(match[4] or "", 0)
        found.append(found.pop() + worth if is_rest else worth)
    return found


@cache
def _amount_pattern() -> re.Pattern[str]:
    grouped = r"\d{1,3}(?:[.,' \u066c]\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+"
    words = "|".join(map(re.escape, sorted(_THOUSANDS, key=len, reverse=True)))
    return re.compile(
        rf"(?:(?<!\w)(elfu|milioni)\s)?(?<![\d.,])({grouped})([.,]\d{{1,2}})?(?!\d)(?:\s?({'|'.join(_MYRIADS)}|(?:{words})(?!{_LETTER})))?"
    )


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())
