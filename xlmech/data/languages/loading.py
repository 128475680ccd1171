"""Find and read language packs, and languages without one; find a value by any of its spellings.

To add a language, add a TOML file here or in the folder that the environment variable `XLMECH_LANGUAGES` names.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import ValidationError

from xlmech.checks import hint
from xlmech.data.languages import cldr
from xlmech.data.languages.pack import TRANSLATED, LanguagePack, faults_of, read_text
from xlmech.metrics.text import normalise

_OPEN = ("occupation", "religion", "diagnosis")
"""Attributes without a complete list of values: a value that the packs do not have is taken as it is."""


def available_languages() -> tuple[str, ...]:
    """List the codes of the languages that have a pack, in alphabetical order."""
    return tuple(path.stem for path in pack_files())


def pack_files() -> tuple[Path, ...]:
    """List the files of the packs, in alphabetical order of the languages; a file added later is in the next list."""
    return tuple(_files(*_own_folder()).values())


def load_language(code: str) -> LanguagePack:
    """Load the pack of one language.

    Raises:
        ValueError: No pack for `code`, or the file is malformed (names file and key).
    """
    if path := _pack_file(code):
        return read_pack(path)
    codes = available_languages()
    raise ValueError(
        f"no language pack for {code!r}{hint(code, codes)}; there are {', '.join(codes)}. To add one, write {code}.toml "
        "after the example of languages/en.toml into the folder that XLMECH_LANGUAGES names"
    )


def check_language(code: str) -> None:
    """Raise ValueError, as `load_language`, unless a language has a pack or is in CLDR."""
    if not _pack_file(code) and not (code and cldr.knows(code)):
        load_language(code)


def find_language(code: str) -> LanguagePack:
    """Load the pack of a language, or make one of CLDR's names alone, without questions and neutral sentences.

    A language that neither has a pack nor is in CLDR has its code for a name, and no names of values.
    """
    path = _pack_file(code)
    return read_pack(path) if path else _from_cldr(code)


@cache
def _from_cldr(code: str) -> LanguagePack:
    if not cldr.knows(code):
        return _without_texts(code, code, "ltr", spaces=True, values={})
    direction, spaces = cldr.writes(code)
    name = load_language("en").form("native_language", code) or code
    values = cldr.translated_values(code, where=code)
    return _without_texts(code, name, "rtl" if direction.startswith("right") else "ltr", spaces=spaces, values=values)


def _without_texts(
    code: str, name: str, direction: Literal["ltr", "rtl"], *, spaces: bool, values: Mapping[str, Mapping[str, str]]
) -> LanguagePack:
    return LanguagePack.model_construct(
        code=code, name=name, direction=direction, spaces=spaces, questions={}, statements={}, values=values
    )


def language_code(text: str) -> str:
    """Return the code of a language as packs name it: `FR` is fr, and `zh-CN` and `zh_Hans` are zh.

    Raises:
        ValueError: No code of two or three letters.
    """
    code = re.split(r"[-_]", text.strip().lower())[0]
    if not re.fullmatch(r"[a-z]{2,3}", code):
        raise ValueError(f"{text!r} is no language code; use two or three letters, as in fr")
    return code


def _pack_file(code: str) -> Path | None:
    """Find the file of a language's pack; None where there is none."""
    return _files(*_own_folder()).get(code)


@cache
def _files(folder: str, _changed: int) -> Mapping[str, Path]:
    """Map codes to files; one in the user's folder goes before a shipped one."""
    folders = (Path(__file__).parent, *([Path(folder)] if folder else []))
    files = {path.stem: path for each in folders for path in each.glob("*.toml")}
    return MappingProxyType(dict(sorted(files.items())))


def _own_folder() -> tuple[str, int]:
    """Return the user's folder of packs, "" for none, and when a file was last added to it or removed."""
    folder = os.environ.get("XLMECH_LANGUAGES", "")
    return (folder, os.stat(folder).st_mtime_ns) if folder and os.path.isdir(folder) else ("", 0)


@cache
def read_pack(path: Path) -> LanguagePack:
    """Read and check one pack, and fill in CLDR's values.

    Raises:
        ValueError: The file is malformed (names file and key).
    """
    try:
        raw = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: not valid TOML: {error}") from error
    if raw.get("code") != path.stem:
        raise ValueError(f"{path.name}: key 'code' is {raw.get('code')!r}; it must be the file's name, {path.stem!r}")
    written = raw.get("values", {})
    if not isinstance(written, dict) or not all(isinstance(forms, dict) for forms in written.values()):
        raise ValueError(f"{path.name}: values: expected tables [values.<attribute>] of key = form")
    if not (occupations := written.get("occupation")):
        unknown = ", ".join(key for key in raw if key not in LanguagePack.model_fields) or "none"
        raise ValueError(f"{path.name}: values.occupation is missing; unknown key {unknown}")
    english = occupations if path.stem == "en" else value_keys("occupation")
    if missing := [key for key in english if key not in occupations]:
        raise ValueError(f"{path.name}: values.occupation lacks {', '.join(missing)}")
    shared = cldr.translated_values(path.stem, where=path.name)
    values = {attribute: shared.get(attribute, {}) | written.get(attribute, {}) for attribute in shared | written}
    try:
        return LanguagePack.model_validate({**raw, "values": values})
    except ValidationError as error:
        raise ValueError(f"{path.name}: {faults_of(error)}") from error


def value_keys(attribute: str) -> tuple[str, ...]:
    """List the keys of the values among which a translated attribute's value is ranked; none for the others."""
    if attribute in cldr.CANDIDATES:
        return cldr.CANDIDATES[attribute]
    return tuple(load_language("en").values[attribute]) if attribute in TRANSLATED else ()


def is_open(attribute: str) -> bool:
    """Tell whether an attribute takes values that the packs do not have, as occupations do and months do not."""
    return attribute not in TRANSLATED or attribute in _OPEN


def key_of(attribute: str, value: str) -> str | None:
    """Find the key of a translated value that is given by its key or by any of its spellings in any language; None for none."""
    keys = _keys_by_spelling(attribute, pack_files())
    written = value.rstrip(".")
    return next((keys[text] for text in (written, normalise(written, True), normalise(written)) if text in keys), None)


@cache
def _keys_by_spelling(attribute: str, files: tuple[Path, ...]) -> Mapping[str, str]:
    """Map keys, and spellings in any language with a pack as `normalise` writes them, to keys.

    A key as it is written goes before every spelling, and a spelling with its accents before those without: "AO" is Angola, and
    "Áo" Austria in Vietnamese. A spelling that two languages give to two values is the first language's.
    """
    packs = [read_pack(path) for path in sorted(files, key=lambda path: (path.stem != "en", path.stem))]
    keys = {key: key for key in packs[0].values.get(attribute, {})}
    spelt = [
        (spelling.rstrip("."), key)
        for pack in packs
        for key in pack.values.get(attribute, {})
        for spelling in pack.spellings(attribute, key)
    ]
    for accents in (True, False):
        for spelling, key in spelt:
            keys.setdefault(normalise(spelling, accents), key)
        if accents:
            for key in packs[0].values.get(attribute, {}):
                keys.setdefault(normalise(key), key)
    if attribute == "birth_month":
        keys |= {f"0{key}": key for key in cldr.MONTHS if len(key) == 1}
    return MappingProxyType(keys)
