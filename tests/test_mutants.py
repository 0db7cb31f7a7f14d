"""Every mutant can still be made; whether it is caught, ``make mutants`` shows."""

from __future__ import annotations

import ast

import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_names_tests_that_there_are(
    mutant: Mutant,
) -> None:
    source = (ROOT / "captum_ehr" / mutant.file).read_text()
    assert source.count(mutant.old) == 1
    assert ast.dump(ast.parse(mutant.changed())) != ast.dump(ast.parse(source))
    for test in mutant.tests.split():
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert not name or f" {name.partition('[')[0]}(" in text.replace(":", "(")
