"""Are the tests any good? Wrong variants of the package, each of which they must catch.

``python tests/mutants.py`` (``make mutants``) makes the changes of ``mutants.toml`` one
by one, each in a copy of the package, and runs the tests of the default tier that are
said to catch it. A mutant is caught if one of them runs and fails; one that cannot be
imported, or is stopped by a name that is not there, shows nothing.
"""

from __future__ import annotations

import argparse
import compileall
import io
import multiprocessing
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: What the tests of the default tier read.
PARTS = (
    *("captum_ehr", "tests", "benchmarks", "docs/limits.md"),
    *("pyproject.toml", "setup.cfg"),
)

#: What takes long to import, and is the same for all: done once, before processes fork.
HEAVY = "torch captum.attr pyhealth.models pandas polars matplotlib.pyplot hypothesis"


class Mutant(NamedTuple):
    """One wrong variant: a text of a file of the package, and what stands for it.

    ``tests`` are files, or tests in them, relative to the folder of tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    def changed(self, root: str | Path = ROOT) -> str:
        """The whole file, changed."""
        text = Path(root, "captum_ehr", self.file).read_text()
        return text.replace(self.old, self.new)


class Run(NamedTuple):
    """What became of some tests: pytest's exit code, how many, who failed first."""

    code: int
    tests: int
    failed: str
    words: str
    seconds: float


TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
MUTANTS = [Mutant(name, **fields) for name, fields in TABLE.items()]


class _Watch:
    """A plugin of pytest's: how many tests have run, and which one failed by itself."""

    def __init__(self) -> None:
        self.tests, self.failed = 0, ""

    def pytest_collection(self) -> None:
        """Hypothesis stops at the first example that fails, and seeks no smaller."""
        from hypothesis import Phase, settings

        first = [Phase.explicit, Phase.generate]
        same = settings.get_profile("same")  # of conftest.py
        settings.register_profile(
            "first", same, phases=first, report_multiple_bugs=False
        )
        settings.load_profile("first")

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.when != "call":
            return
        self.tests += 1
        if call.excinfo and not call.excinfo.errisinstance((NameError, ImportError)):
            self.failed = self.failed or item.nodeid


def run(tests: Sequence[str], mutant: Mutant | None, plain: str) -> Run:
    """Run tests in a copy of a copy; in a process that has not imported the package."""
    import pytest

    start, words, watch = time.monotonic(), io.StringIO(), _Watch()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(plain, folder, dirs_exist_ok=True)
        if mutant is not None:
            file = Path(folder, "captum_ehr", mutant.file)
            file.write_text(mutant.changed(folder))
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder)
        chosen = [f"tests/{test}" for test in tests]
        options = "-x -q --tier default -p no:cacheprovider".split()
        with redirect_stdout(words), redirect_stderr(words):
            code = int(pytest.main([*options, *chosen], plugins=[watch]))
        import captum_ehr

        assert Path(captum_ehr.__file__).is_relative_to(Path(folder).resolve())
    seconds = time.monotonic() - start
    return Run(code, watch.tests, watch.failed, words.getvalue(), seconds)


def copied(folder: str) -> None:
    """The tree as it is now, with byte code for all of the package that stays so."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        Path(folder, part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, Path(folder, part))
    compileall.compile_dir(Path(folder, "captum_ehr"), quiet=1)


def verdict(found: Run) -> str:
    """Whether the tests have caught a mutant, let it pass, or shown nothing."""
    if found.code == 1 and found.failed:
        return "caught"
    return "SURVIVED" if found.code == 0 and found.tests else "BROKEN"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1, help="so many at a time")
    parser.add_argument("-k", default="", help="those with this in name or file alone")
    asked = parser.parse_args()
    mutants = [m for m in MUTANTS if asked.k in m.name or asked.k in m.file]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY.split())
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(asked.n, context, max_tasks_per_child=1) as pool,
    ):
        copied(folder)
        every = list(dict.fromkeys(t for m in mutants for t in m.tests.split()))
        plain = pool.submit(run, every, None, folder).result()
        if plain.code or not plain.tests:
            sys.exit(f"The tests do not pass as it is:\n{plain.words}")
        print(f"{plain.tests} tests pass in {plain.seconds:.0f} s", flush=True)
        waiting = {pool.submit(run, m.tests.split(), m, folder): m for m in mutants}
        lost = 0
        for future in as_completed(waiting):
            found, name = future.result(), waiting[future].name
            what = verdict(found)
            lost += what != "caught"
            by = found.failed or f"{found.tests} tests"
            print(f"{what:8} {found.seconds:5.0f} s  {name}: {by}", flush=True)
            if what == "BROKEN":
                print(found.words[-3000:])
    print(f"{len(mutants) - lost} of {len(mutants)} caught")
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
