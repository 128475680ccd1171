"""Matching of answers in ten languages' scripts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmech.data.languages import available_languages, load_language
from xlmech.metrics.matching import find_form
from xlmech.metrics.text import WordRule, normalise

QUICK = settings(max_examples=150, deadline=None)
PHONE = "+44 7700 900123"
UNSPACED = WordRule(spaces=False)


def contains_form(text: str, form: str, *, spaces: bool = True, drop_separators: bool = False) -> bool:
    rules = {"xx": WordRule(spaces=spaces)}
    found = find_form(text, {"xx": form}, compare="number" if drop_separators else "text", rules=rules)
    assert found in ((), ("xx",))
    return bool(found)


# Normalisation


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  Ann\t\nLEE ", "ann lee"),
        ("Straße STRASSE", "strasse strasse"),
        ("ﬁn Ｄｏｃｔｏｒ", "fin doctor"),
        ("١٢ ۱۲ १२ １２", "12 12 12 12"),
        ("cafe\u0301", "cafe"),
        ("ΣΊΣΥΦΟΣ σίσυφος", "σίσυφοσ σίσυφοσ"),
        ("３月", "3月"),
        ("½ ²", "1⁄2 2"),
    ],
)
def test_normalise(text: str, plain: str) -> None:
    assert normalise(text) == plain


@pytest.mark.parametrize(
    "written",
    [
        "+44 7700 900123",
        "+44-7700-900123",
        "(+44) 7700/900.123",
        "+44\u00a07700\u2009900\u202f123",
        "+44‑7700–900—123",
        "＋４４　７７００　９００１２３",
        "+٤٤ ٧٧٠٠ ٩٠٠١٢٣",
        "+447700900123",
    ],
)
def test_normalise_drops_separators(written: str) -> None:
    assert contains_form(f"call {written} today", "+44 7700 900123", drop_separators=True)
    assert not contains_form(f"call {written}", "+44 7700 90012", drop_separators=True)
    assert contains_form(f"call {written}.", PHONE, drop_separators=True)
    assert contains_form(f"call {PHONE}, she said", written, drop_separators=True)


ALPHABET = sorted(
    {char for code in available_languages() for sentence in load_language(code).neutral for char in sentence}
    | set("٣۳३３İẞﬁé\u0301()-./ \u00a0‑")
)


@QUICK
@given(st.text(ALPHABET, max_size=12))
def test_normalise_twice_is_normalise(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


# Matching


@pytest.mark.parametrize(
    ("text", "form", "spaces", "found"),
    [
        # numbers never continue
        ("11月", "1月", False, False),
        ("11月", "1月", True, False),
        ("１１月", "1月", False, False),
        ("生于1月。", "1月", False, True),
        ("2001月", "01月", False, False),
        ("XX0331", "XX033", True, False),
        ("no. 033", "33", True, False),
        ("33, not 34", "33", True, True),
        # words where there are spaces
        ("A doctor.", "doctor", True, True),
        ("DOCTOR!", "doctor", True, True),
        ("indoctor", "doctor", True, False),
        ("doctoral", "doctor", True, False),
        ("doctor2", "doctor", True, False),
        ("_doctor_", "doctor", True, True),
        ("l'avocat", "avocat", True, True),
        ("Mayor", "May", True, False),
        ("mai 1990", "mai", True, True),
        ("врачи", "врач", True, False),
        ("Он — врач", "Врач", True, True),
        ("هي طبيبة", "طبيب", True, False),
        ("هو طبيب.", "طبيب", True, True),
        # a Devanagari vowel sign continues a word: Bharat (India) and bharatiya (Indian), Rus and rusi
        ("भारत।", "भारत", True, True),
        ("भारतीय", "भारत", True, False),
        ("वह रूसी है", "रूस", True, False),
        ("वह रूस से है", "रूस", True, True),
        # scripts without spaces, and a word of another script among them
        ("她是医生。", "医生", False, True),
        ("彼は医師です", "医師", False, True),
        ("她的职业是doctor。", "doctor", True, True),
        ("她是doctors", "doctor", True, False),
        # case
        ("STRASSE", "Straße", True, True),
        ("Straße", "STRASSE", True, True),
        ("Österreich", "ÖSTERREICH", True, True),
        ("İSTANBUL", "İstanbul", True, True),
        ("ISPARTA", "isparta", True, True),
        ("ÇİÇEKÇİ", "Çİçekçİ", True, True),
        # composed and decomposed
        ("Me\u0301decin", "médecin", True, True),
        ("médecin", "me\u0301decin", True, True),
        ("native   language", "native language", True, True),
        ("native\nlanguage", "native language", True, True),
        # special characters and nothing
        ("a.b", "a.b", True, True),
        ("axb", "a.b", True, False),
        ("C++ (7)", "c++ (7)", True, True),
        ("anything", "", True, False),
        ("anything", "  ", True, False),
        ("", "a", True, False),
    ],
)
def test_contains_form(text: str, form: str, spaces: bool, found: bool) -> None:
    assert contains_form(text, form, spaces=spaces) is found


@pytest.mark.parametrize(
    ("text", "form", "found"),
    [
        ("+447700900123", "+44 7700 900123", True),
        ("+4477009001234", "+44 7700 900123", False),
        ("0447700900123", "44 7700 900123", False),
        ("number:XX-033", "XX033", True),
        ("xx 033", "XX033", True),
        ("XX0331", "XX033", False),
        ("XX033Z", "XX033", False),
        ("- / .", "-", False),
        ("+44 7700 900124", PHONE, False),
    ],
)
def test_contains_form_without_separators(text: str, form: str, found: bool) -> None:
    assert contains_form(text, form, drop_separators=True) is found


words = st.text("abcdeéöñçžABCÉÖ жЖшЩ", min_size=1, max_size=12).filter(str.strip)


@QUICK
@given(words, st.sampled_from(["", "(", " ", "\n", "…", "«"]), st.sampled_from(["", ")", " x", ".", "»"]))
def test_every_way_of_writing_a_form_is_found(form: str, before: str, after: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in form)
    ways = [
        form.upper(),
        form.lower(),
        form.title(),
        unicodedata.normalize("NFD", form),
        wide,
        form.replace(" ", "\u00a0\t"),
    ]
    for written in ways:
        assert contains_form(before + written + after, form)
        assert contains_form(form, written)


@QUICK
@given(words.map(str.strip), st.sampled_from("aéЖ7"))
def test_a_longer_word_is_another_word(form: str, letter: str) -> None:
    for longer in (form + letter, letter + form):
        assert not contains_form(f"({longer})", form)
    assert contains_form(f"({form}{letter} {form})", form)


@QUICK
@given(st.integers(0, 9999), st.integers(0, 99999))
def test_numbers_are_found_as_whole_numbers(number: int, other: int) -> None:
    arabic, wide = (
        str(other).translate({48 + digit: zero + digit for digit in range(10)}) for zero in (0x0660, 0xFF10)
    )
    for written in (str(other), arabic, wide):
        assert contains_form(f"年{written}月", str(number), spaces=False) is (number == other)


# Languages of the form found


@pytest.mark.parametrize(
    ("text", "forms", "others", "found"),
    [
        ("Daktari.", {"sw": "daktari"}, ["daktari wa meno"], ("sw",)),
        ("daktari wa meno", {"sw": "daktari"}, ["daktari", "daktari wa meno"], ()),
        ("daktari wa meno", {"sw": "daktari wa meno"}, ["daktari"], ("sw",)),
        ("daktari, daktari wa meno", {"sw": "daktari"}, ["daktari wa meno"], ("sw",)),
        ("daktari wa meno na daktari", {"sw": "daktari"}, ["daktari wa meno"], ("sw",)),
        ("Daktari  Wa MENO", {"sw": "daktari"}, ["daktari wa meno"], ()),
        ("daktari wa", {"sw": "daktari"}, ["daktari wa meno"], ("sw",)),
        ("一月", {"zh": "一月"}, ["十一月"], ("zh",)),
        ("十一月", {"zh": "一月"}, ["一月", "十一月"], ()),
        ("十一月", {"zh": "十一月"}, ["一月", "十一月"], ("zh",)),
        ("不是十一月，是一月", {"zh": "一月"}, ["十一月"], ("zh",)),
        ("一十一月月", {"zh": "一月"}, ["十一月"], ()),
        ("11月", {"zh": "一月", "ja": "1月"}, ["十一月", "11月"], ()),
        ("１月", {"zh": "一月", "ja": "1月"}, ["十一月", "11月"], ("ja",)),
        ("doctor, médecin", {"fr": "médecin", "de": "Arzt", "en": "doctor"}, [], ("fr", "en")),
        ("pilote", {"en": "pilot", "fr": "pilote"}, ["pilot", "pilote"], ("fr",)),
        ("法国", {"fr": "France", "zh": "法国"}, [], ("zh",)),
        ("nothing", {"en": "doctor"}, ["nurse"], ()),
    ],
)
def test_find_form(text: str, forms: dict[str, str], others: list[str], found: tuple[str, ...]) -> None:
    assert find_form(text, forms, others=others, rules={"zh": UNSPACED, "ja": UNSPACED}) == found


def test_find_form_takes_spaces_from_the_forms_language() -> None:
    assert find_form("她是医生", {"zh": "医生"}, rules={"zh": UNSPACED}) == ("zh",)
    assert find_form("kamaxdaktari", {"sw": "daktari"}) == ()
    assert find_form("generalist", {"en": "general"}, rules={"en": WordRule()}) == ()


def test_find_form_drops_separators() -> None:
    forms = {"en": PHONE, "fr": "+33 6 39 98 00 00"}
    assert find_form("it is +44-7700-900123", forms, compare="number") == ("en",)
    assert find_form("it is +44-7700-900123", forms) == ()
    assert find_form("XX 033", {"en": "XX033"}, compare="number") == ("en",)
    assert find_form("AXX 033", {"en": "XX033"}, compare="number") == ()
