"""The two tiers are the whole: no test is in neither, and none is in both."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import COLLECTED, TIERS, in_tier

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def test_every_test_is_in_one_tier_and_runs_with_it(request) -> None:
    collected = request.config.stash[COLLECTED]
    for item in collected:
        assert sum(in_tier(item, tier) for tier in TIERS) == 1, item
        assert in_tier(item, "all")
    tier = request.config.option.tier
    assert {*request.session.items} <= {i for i in collected if in_tier(i, tier)}


def test_make_check_runs_both_tiers() -> None:
    targets = dict(
        re.findall(r"^(test|check):(.*\n(?:\t.*\n)+)", MAKEFILE.read_text(), re.M)
    )
    assert "--tier default" in targets["test"]
    assert targets["check"].startswith(" test\n")
    assert "--tier complete" in targets["check"]
