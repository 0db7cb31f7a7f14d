"""The distribution: what a user gets by installing it."""

from __future__ import annotations

import configparser
import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import captum_ehr

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE_SUFFIXES = frozenset({".html", ".jinja", ".css", ".js"})
INFO = f"captum_ehr-{captum_ehr.__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left in the tree."""
    tree = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
    shutil.copytree(
        ROOT / "captum_ehr",
        tree / "captum_ehr",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    script = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = (tree / "dist").glob("captum_ehr-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "captum_ehr").rglob("*")
        if path.suffix in TEMPLATE_SUFFIXES | {".py"} or path.name == "py.typed"
    }
    names = set(wheel.namelist())
    assert "captum_ehr/py.typed" in wanted
    assert any(Path(name).suffix in TEMPLATE_SUFFIXES for name in wanted)
    assert wanted <= names


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"captum_ehr", INFO}


def test_the_wheel_names_its_license_and_script(wheel: zipfile.ZipFile) -> None:
    scripts = wheel.read(f"{INFO}/entry_points.txt").decode()
    assert "captum-ehr = captum_ehr.cli:" in scripts
    assert "[captum_ehr.displays]" in scripts
    assert any("LICENSE" in name for name in wheel.namelist())


def requirements(*extras: str) -> list[str]:
    """What setup.cfg asks for, of the package itself or of its extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    if not extras:
        return config["options"]["install_requires"].split("\n")[1:]
    listed = config["options.extras_require"]
    return [line for extra in extras for line in listed[extra].split("\n") if line]


def test_every_requirement_has_both_bounds() -> None:
    asked = requirements(), requirements("cli", "page")
    assert all(asked)
    for requirement in itertools.chain(*asked):
        if not requirement.startswith("captum-ehr["):
            assert ">=" in requirement and ",<" in requirement, requirement


#: Without the extras: the README's example, and what is said of what is not there.
EXAMPLE = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
exec(sys.stdin.read())
assert exp[0]._repr_html_().startswith("<")
try:
    from captum_ehr.insights import serve
except ImportError as error:
    print(error)
import captum_ehr.cli
"""

#: Of the extras, what PyHealth imports itself.
BROUGHT = ("platformdirs",)


@pytest.mark.complete
def test_the_readme_runs_without_the_extras_which_are_named(tmp_path: Path) -> None:
    extras = requirements("cli", "page")
    names = [re.match(r"[\w-]+", line).group() for line in extras]  # type: ignore[union-attr]
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    ran = subprocess.run(
        [sys.executable, "-c", EXAMPLE, *{*names} - {"captum-ehr", *BROUGHT}],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=code,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Explanation: Transformer | 64 patient(s)" in ran.stdout, ran.stderr
    assert "pip install 'captum-ehr[page]'" in ran.stdout, ran.stderr
    assert ran.returncode == 1 and "The command line needs typer" in ran.stderr
    assert "pip install 'captum-ehr[cli]'" in ran.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"patient.png", "patient.html"}
