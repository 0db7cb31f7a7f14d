"""Every mutant can still be made; whether it is caught, ``make mutants`` shows."""

from __future__ import annotations

import ast
import re

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
        file, *names = test.split("::")
        text = (ROOT / "tests" / file).read_text()
        assert all(re.search(rf"(class|def) {name}\b", text) for name in names), test
