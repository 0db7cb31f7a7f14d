"""A stand-in for the ATC tables that PyHealth's medication models download."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

#: ATC codes and the molecules behind them.
MOLECULES = {
    "A10BA02": "CN(C)C(=N)N=C(N)N",
    "C09AA03": "CC(C(=O)O)NC(C)C(=O)N1CCCC1C(=O)O",
    "J01CA04": "CC1(C(N2C(S1)C(C2=O)N)C(=O)O)C",
    "N02BA01": "CC(=O)OC1=CC=CC=C1C(=O)O",
}

#: Third-level codes, the labels of the medication models.
DRUG_CLASSES = [code[:4] for code in MOLECULES]


class Atc:
    """What the models ask of ``pyhealth.medcode.ATC``."""

    def __init__(self) -> None:
        nodes = {code: {"smiles": smiles} for code, smiles in MOLECULES.items()}
        self.graph = SimpleNamespace(nodes=nodes)

    @staticmethod
    def convert(code: str, level: int = 3) -> str:
        return code[:4] if level == 3 else code

    def get_ddi(self, gamenet_ddi: bool = False) -> list[list[str]]:
        return [["A10BA02", "C09AA03"], ["J01CA04", "N02BA01"]]


@contextmanager
def tables(cache: str) -> Iterator[None]:
    """Medication models built inside read these tables, and write to ``cache``."""
    homes = ("gamenet", "safedrug", "micron", "molerec")
    modules: list[Any] = [sys.modules[f"pyhealth.models.{home}"] for home in homes]
    patches = [patch.object(module, "ATC", Atc) for module in modules]
    patches += [patch.object(module, "CACHE_PATH", cache) for module in modules]
    # Their training losses read the interactions back from PyHealth's own cache.
    rate = [m for m in modules if hasattr(m, "ddi_rate_score")]
    patches += [patch.object(m, "ddi_rate_score", lambda *_: 0.0) for m in rate]
    # They number substructures in the order of a set of strings, another in each run.
    patches += [
        patch.object(m, "set", lambda items: sorted(set(items)), create=True)
        for m in modules
    ]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
