"""The distribution: what a user gets by installing it."""

from __future__ import annotations

import configparser
import email
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import captum_ehr

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE_SUFFIXES = frozenset({".html", ".jinja", ".css", ".js"})
INFO = f"captum_ehr-{captum_ehr.__version__}.dist-info"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked; made of a copy so that nothing is left in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    for name in ("captum_ehr", "tests", "docs", ".github"):
        shutil.copytree(ROOT / name, tree / name)
    with tarfile.open(_built("sdist", tree)) as archive:
        archive.extractall(tree / "unpacked", filter="data")
    return tree / "unpacked" / f"captum_ehr-{captum_ehr.__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """The wheel, made of the sdist, as by an installation without wheels."""
    return zipfile.ZipFile(_built("wheel", sdist))


def _built(kind: str, tree: Path) -> Path:
    script = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    built = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = (tree / "dist").glob("captum_ehr-*")
    return path


@pytest.mark.complete
def test_the_sdist_holds_the_package_and_its_papers_and_nothing_else(
    sdist: Path,
) -> None:
    papers = "README.md LICENSE CHANGELOG.md CITATION.cff".split()
    makes = "setup.cfg pyproject.toml MANIFEST.in PKG-INFO captum_ehr.egg-info".split()
    left = {"build", "dist"}  # of the wheel
    names = {path.name for path in sdist.iterdir()} - left
    assert names == {"captum_ehr", *papers, *makes}
    suffixes = {path.suffix for path in (sdist / "captum_ehr").rglob("*.*")}
    assert suffixes == TEMPLATE_SUFFIXES | {".py", ".typed"}


@pytest.mark.complete
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


@pytest.mark.complete
def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"captum_ehr", INFO}


@pytest.mark.complete
def test_the_wheel_names_its_license_and_script(wheel: zipfile.ZipFile) -> None:
    scripts = wheel.read(f"{INFO}/entry_points.txt").decode()
    assert "captum-ehr = captum_ehr.cli:" in scripts
    assert "[captum_ehr.displays]" in scripts
    assert any("LICENSE" in name for name in wheel.namelist())


@pytest.mark.complete
def test_the_metadata_say_what_setup_cfg_says(wheel: zipfile.ZipFile) -> None:
    said = email.message_from_bytes(wheel.read(f"{INFO}/METADATA"))
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert said["Version"] == captum_ehr.__version__
    assert said["License-Expression"] == "BSD-3-Clause"
    pythons = SpecifierSet(config["options"]["python_requires"])
    assert SpecifierSet(said["Requires-Python"]) == pythons
    assert said.get_all("Provides-Extra") == [*config["options.extras_require"]]
    plain = [one for one in said.get_all("Requires-Dist") or [] if ";" not in one]
    assert len(plain) == len(requirements())
    assert said["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_bytes()
    assert wheel.read(f"{INFO}/METADATA").endswith(readme)


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
