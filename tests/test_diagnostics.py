"""The account of an explanation: what several say together."""

import pytest

from captum_ehr.propagation import Diagnostics, Operation, Structure

EXACT = Operation("relu", "relu", 2)
INTEGRATED = Operation("erfinv", "path_integral", 1, exact=False)


def test_a_sum_of_two_counts_calls_and_says_everything_once():
    first = Diagnostics(
        (EXACT, INTEGRATED), ("a", "b"), ("note",), (Structure("eq", 1),), 2.0
    )
    second = Diagnostics(
        (EXACT, Operation("gelu", "gelu", 4)),
        ("b", "c"),
        ("note", "more"),
        (Structure("eq", 1), Structure("any", 2, 0.5)),
        3.0,
    )
    assert first + second == Diagnostics(
        (INTEGRATED, Operation("gelu", "gelu", 4), Operation("relu", "relu", 4)),
        ("a", "b", "c"),
        ("note", "more"),
        (Structure("eq", 1), Structure("any", 2, 0.5)),
        3.0,
    )


def test_nothing_added_changes_nothing():
    report = Diagnostics((EXACT,), ("a",), ("note",), (Structure("eq", 1),), 2.0)
    assert report + Diagnostics() == Diagnostics() + report == report
    assert sum([report, report], Diagnostics()).operations[0].calls == 4


def test_only_diagnostics_are_added():
    with pytest.raises(TypeError):
        Diagnostics() + 1
