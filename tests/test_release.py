"""The papers of the house: one version, readable files, steps that are there."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from test_docs import public_names

import captum_ehr
from captum_ehr.cohort import manifest
from captum_ehr.explanation import storage

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ["Removed", "Changed", "Added", "Fixed"]
PAPERS = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "docs/policy.md")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def read(name: str) -> Any:
    return yaml.safe_load(text(name))


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def releases() -> dict[str, tuple[str, str]]:
    """Of each version in the changelog, as it stands: its date and its text."""
    parts = re.split(r"^## (.+)\n", text("CHANGELOG.md"), flags=re.M)[1:]
    found = {}
    for heading, body in zip(parts[::2], parts[1::2]):
        version, _, date = heading.partition(" - ")
        found[version.strip("[]")] = (date, body)
    return found


# One version ---------------------------------------------------------------------


def test_the_version_stands_in_one_place_and_others_read_it(
    setup: configparser.ConfigParser,
) -> None:
    assert setup["metadata"]["version"] == "attr: captum_ehr.__version__"
    conf = text("docs/conf.py")
    assert "from captum_ehr import __version__" in conf
    assert "version = release = __version__" in conf
    assigned = [
        path
        for path in (ROOT / "captum_ehr").rglob("*.py")
        if re.search(r"^__version__ *=", path.read_text(), re.M)
    ]
    assert assigned == [ROOT / "captum_ehr" / "__init__.py"]


def test_the_changelog_leads_to_the_version_newest_first() -> None:
    released = [name for name in releases() if name != "Unreleased"]
    assert released[0] == captum_ehr.__version__
    assert released == sorted(released, key=Version, reverse=True)
    assert "Unreleased" not in [*releases()][1:]


def test_the_changelog_has_each_group_once_and_what_breaks_first() -> None:
    for version, (_, body) in releases().items():
        groups = re.findall(r"^### (.+)$", body, re.M)
        assert groups == [name for name in GROUPS if name in groups], version
    _, newest = next(iter(releases().values()))
    assert all(len(line) <= 100 for line in newest.splitlines())


def test_the_citation_is_of_this_version_and_these_authors(
    setup: configparser.ConfigParser,
) -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "type"} <= set(citation)
    assert citation["version"] == captum_ehr.__version__
    assert citation["authors"] == [{"name": setup["metadata"]["author"]}]
    assert citation["license"] == setup["metadata"]["license_expression"]
    date, _ = releases()[captum_ehr.__version__]
    assert str(citation.get("date-released", "unreleased")) == date


def test_every_paper_names_the_same_pythons(setup: configparser.ConfigParser) -> None:
    first, last = re.findall(r":: 3\.(\d+)$", setup["metadata"]["classifiers"], re.M)
    assert setup["options"]["python_requires"] == f">=3.{first},<3.{int(last) + 1}"
    for paper in (
        "README.md",
        "docs/start.md",
        "docs/policy.md",
        "Makefile",
        PAPERS[0],
    ):
        assert re.search(rf"3\.{first} (or|and) 3\.{last}", text(paper)), paper


# Steps that are there ------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.M))


@pytest.mark.parametrize("paper", PAPERS)
def test_papers_name_files_tests_and_targets_that_exist(paper: str) -> None:
    words = text(paper)
    code = re.findall(r"```console\n(.*?)```|`([^`\n]+)`", words, re.S)
    made = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", "\n".join(map("".join, code)))
    assert {one for line in made for one in line.split()} <= targets()
    paths = re.findall(
        r"(?<![\w/.])((?:captum_ehr|tests|docs)/[\w/.-]+\w|[A-Z_]+\.(?:md|cff))", words
    )
    assert not [path for path in paths if not (ROOT / path).exists()]
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    for name in re.findall(r"`(test_\w+)`", words):
        assert f"def {name}(" in sources, name


def test_the_names_in_contributing_are_those_of_the_tests() -> None:
    words = text("CONTRIBUTING.md")
    for file in ("zoo", "oracles_more", "oracles_chains", "test_rules_table"):
        assert f"tests/{file}.py" in words
    homes = {
        "ELEMENTWISE": "oracles_more",
        "MULTILINEAR": "oracles_more",
        "CHAINS": "oracles_chains",
        "CELLS": "oracles_chains",
        "ARGUMENTS": "test_rules_table",
        "SCHEMAS": "zoo",
        "KINDS": "zoo",
    }
    for name, home in homes.items():
        assert f"`{name}`" in words
        assert re.search(rf"^{name}\b.* = ", text(f"tests/{home}.py"), re.M), name
    for name in ("configs", "mixing", "drawing"):
        assert f"`{name}()`" in words and f"def {name}(" in text("tests/zoo.py")


def test_the_policy_lists_what_is_public_and_the_formats_that_are_read() -> None:
    words = text("docs/policy.md")
    assert set(re.findall(r"^\| `([\w.]+)` \|", words, re.M)) == set(public_names())
    read = ", ".join(map(str, storage.READABLE))
    assert f"| format {storage.FORMAT} | formats {read} |" in words
    assert f"| format {manifest.FORMAT} | format {manifest.FORMAT} |" in words


# The code host's files -----------------------------------------------------------


def test_workflows_may_read_and_run_targets_with_the_pythons_of_the_package(
    setup: configparser.ConfigParser,
) -> None:
    ran, pythons = set(), set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        flow = read(str(path.relative_to(ROOT)))
        assert flow["permissions"] == {"contents": "read"}
        for job in flow["jobs"].values():
            assert "permissions" not in job and job["timeout-minutes"]
            matrix = job.get("strategy", {}).get("matrix", {})
            pythons |= {*matrix.get("python", [])}
            runs = [step["run"] for step in job["steps"] if "run" in step]
            for target in (run.removeprefix("make ") for run in runs):
                each = target == "${{ matrix.target }}"
                ran |= {*matrix["target"]} if each else {target}
    assert {"lint", "test", "docs", "check", "test-compat", "dist-check"} == ran
    assert ran <= targets()
    classified = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    assert sorted(pythons) == sorted(classified)


def test_actions_of_others_are_pinned_to_a_major_version() -> None:
    used = [
        action
        for path in (ROOT / ".github").rglob("*.yml")
        for action in re.findall(r"uses: (\S+)", path.read_text())
    ]
    assert len(used) > 5
    for action in used:
        assert re.fullmatch(r"\./\.github/[\w/-]+|actions/[\w-]+@v\d+", action), action


def test_hooks_have_the_ruff_of_the_tests(setup: configparser.ConfigParser) -> None:
    asked = setup["options.extras_require"]["test"].split()
    (ruff,) = [one for one in asked if one.startswith("ruff")]
    hooks = read(".pre-commit-config.yaml")["repos"][0]["hooks"]
    pins = [hook["additional_dependencies"] for hook in hooks if "ruff" in hook["id"]]
    assert pins == [[ruff], [ruff]]


def test_issue_forms_ask_for_something_and_say_where_patients_do_not_belong() -> None:
    forms = [
        read(str(path.relative_to(ROOT)))
        for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
        if path.name != "config.yml"
    ]
    for form in forms:
        assert form["name"] and form["description"]
        asked = [one for one in form["body"] if one["type"] != "markdown"]
        ids = [one["id"] for one in asked]
        assert len(set(ids)) == len(ids)
        assert any(one.get("validations", {}).get("required") for one in asked)
    assert "records" in str(forms) and "SECURITY.md" in str(forms)
    assert "record" in text(".github/pull_request_template.md")
