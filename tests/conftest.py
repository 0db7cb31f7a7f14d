"""One thread, quiet PyHealth, two tiers, and who runs where when there are workers.

The default tier is what runs without a word; what is marked ``complete`` is slow, or a
further instance of what the default tier has one of. Files that are named run whole.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from insights_browser import BROWSER

from captum_ehr.propagation import passes, runs

#: The same examples in every run: a failure is a defect, never bad luck.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

torch.set_num_threads(1)
logging.getLogger("pyhealth").setLevel(logging.WARNING)

TIERS = ("default", "complete")

#: All tests that were collected, of whatever tier.
COLLECTED = pytest.StashKey[list[pytest.Item]]()

#: Files of more cases than this are shared out among workers, function by function.
LARGE = 150


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=(*TIERS, "all"),
        help="default: what is not marked complete; complete: the rest; all: both, "
        "as of files that are named",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.tier is None:
        named = config.args_source is pytest.Config.ArgsSource.ARGS
        config.option.tier = "all" if named else "default"


def in_tier(item: pytest.Item, tier: str) -> bool:
    """Whether a tier has a test."""
    complete = item.get_closest_marker("complete") is not None
    return {"default": not complete, "complete": complete, "all": True}[tier]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep one tier, and what shares a model or a fixture on one worker."""
    tier = config.option.tier
    config.stash[COLLECTED] = list(items)
    others = [item for item in items if not in_tier(item, tier)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if in_tier(item, tier)]
    _group(items)


def _group(items: list[pytest.Item]) -> None:
    files = [item.nodeid.partition("::")[0] for item in items]
    cases = Counter(files)
    for item, file in zip(items, files):
        if item.get_closest_marker("xdist_group") is None:
            name = file if cases[file] <= LARGE else item.nodeid.partition("[")[0]
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def _quiet_models() -> Any:
    """PyHealth's models warn of missing masks; ours must not be drowned by it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="pyhealth")
        yield


@pytest.fixture(autouse=True)
def _threads_of_before_draw_no_numbers() -> Iterator[None]:
    """Of pytest-xdist, of dask and tqdm: they stay, and are nobody's draws."""
    idle = sys._current_frames().keys() - {threading.get_ident()}
    with pytest.MonkeyPatch.context() as patch:
        for module in (passes, runs):
            patch.setattr(
                module, "alone", lambda: len(sys._current_frames().keys() - idle) == 1
            )
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the tests that are skipped without it."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-quic"]
        )
        yield opened
        opened.close()
