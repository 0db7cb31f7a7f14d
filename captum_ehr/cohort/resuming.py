"""Beginning a cohort, or going on with one: what a folder has to hold for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .durable import discard, whole_file, write_json
from .identity import differences, fingerprint_of
from .manifest import (
    COHORT,
    FORMAT,
    ORDER,
    PART,
    PARTS,
    CohortError,
    part_folder,
    part_report,
    parts_begun,
    read_json,
    read_manifest,
)
from .order import read_order
from .padding import Company
from .progress import logger

_TOLD = 8
"""How many differences are named."""


def found(
    out: Path, identity: Mapping[str, Any], resume: bool
) -> dict[str, Any] | None:
    """What ``cohort.json`` says, if it is of this identity; None if there is none.

    Raises:
        CohortError: If it is of another, or must not be gone on with.
    """
    if out.exists() and not out.is_dir():
        raise CohortError(f"{out} is a file; a cohort needs a folder.")
    if not (out / COHORT).exists():
        return None
    manifest = read_manifest(out)
    if not resume:
        raise CohortError(
            f"{out} holds a cohort already. resume=True goes on with it; else give "
            "another folder, or remove it."
        )
    now = json.loads(json.dumps(identity))
    if said := differences(now, manifest["identity"]):
        more = f" and {len(said) - _TOLD} more" if len(said) > _TOLD else ""
        raise CohortError(
            f"{out} holds a cohort that was explained otherwise, and one folder has one"
            f" cohort. What differs: {'; '.join(said[:_TOLD])}{more}. Give another "
            "folder, or what it was begun with."
        )
    _check_order(out, manifest)
    return manifest


def check_folder(out: Path) -> None:
    """Refuse a folder without a cohort in which something else is.

    Raises:
        CohortError: Naming some of it.
    """
    if not out.exists() or (out / COHORT).exists():
        return
    mine = {ORDER, PARTS}
    others = sorted(p.name for p in out.iterdir() if p.name not in mine)
    others = [name for name in others if not name.endswith(".tmp")]
    others += sorted(f"{PARTS}/{p.name}" for p in (out / PARTS).glob("part-*"))
    if others:
        raise CohortError(
            f"{out} has no {COHORT} but other things ({', '.join(others[:5])}"
            f"{', …' if len(others) > 5 else ''}): it is not a cohort's folder, or "
            "was damaged. Give a new or empty one."
        )


def begin(
    out: Path, identity: Mapping[str, Any], header: Mapping[str, Any], company: Company
) -> dict[str, Any]:
    """Write ``cohort.json``, once there is an order; what it says.

    Args:
        out: The cohort's folder.
        identity: What makes it this cohort.
        header: What all its explanations have in common.
        company: Who may be explained together.
    """
    order = read_order(out, columns=["partition"])["partition"].to_pylist()
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint_of(identity),
        "samples": len(order),
        "partitions": max(order) + 1,
        **company._asdict(),
        "identity": identity,
        "explanation": header,
    }
    with whole_file(out / COHORT) as path:
        write_json(path, manifest)
    return read_manifest(out)


def discard_broken(out: Path, manifest: Mapping[str, Any]) -> None:
    """Take away partitions that are not whole.

    Raises:
        CohortError: If one is another cohort's.
    """
    for number in parts_begun(out, manifest):
        folder = part_folder(out, number)
        if part_report(out, number, manifest["fingerprint"]):
            continue
        try:
            theirs = (read_json(folder / PART) or {}).get("fingerprint")
        except OSError:
            theirs = None
        if theirs not in (None, manifest["fingerprint"]):
            raise CohortError(
                f"{folder} belongs to another cohort than {out / COHORT}; nothing was "
                "changed. Take it away, or give another folder."
            )
        logger.warning("%s is not whole and is made anew", folder)
        discard(folder)


def _check_order(out: Path, manifest: Mapping[str, Any]) -> None:
    """Raise a CohortError if the order is not that of the cohort."""
    try:
        numbers = read_order(out, columns=["partition"])["partition"].to_pylist()
    except Exception as error:
        raise CohortError(
            f"{out / ORDER} is missing or damaged ({error}); without it the cohort "
            "cannot be gone on with. Explain it anew, in another folder."
        ) from error
    counts = manifest["samples"], manifest["partitions"]
    if (len(numbers), max(numbers, default=-1) + 1) != counts:
        raise CohortError(
            f"{out / ORDER} has {len(numbers)} samples, {out / COHORT} {counts[0]}: "
            "they are of different cohorts."
        )
