"""The command line: what it says, what it refuses, and that it is quick to say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cohort_files import synthetic, write_cohort
from typer.testing import CliRunner

import captum_ehr
from captum_ehr.cli import app

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "captum", "pyhealth", "matplotlib", "pandas", "numpy")


def captum_ehr_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, on a wide terminal without colours."""
    return subprocess.run(
        [sys.executable, "-m", "captum_ehr.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )


def test_help_names_the_commands_and_where_to_begin() -> None:
    done = captum_ehr_cli("--help")
    assert done.returncode == 0, done.stderr
    assert "captum-ehr demo" in done.stdout and "--version" in done.stdout


def test_help_of_the_demo_is_enough_by_itself() -> None:
    done = captum_ehr_cli("demo", "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--out", "--mimic3", "--patients", "--epochs", "--seed"):
        assert option in done.stdout
    for file in ("report.html", "timeline.png", "attributions.parquet"):
        assert file in done.stdout
    assert "Example: captum-ehr demo" in done.stdout


def test_without_a_command_there_is_help() -> None:
    assert "demo" in captum_ehr_cli().stdout


def test_version() -> None:
    done = captum_ehr_cli("--version")
    assert done.returncode == 0
    assert done.stdout.split() == ["captum-ehr", captum_ehr.__version__]


@pytest.mark.parametrize("command", [("insights",), ("explain", "--out", "none")])
@pytest.mark.parametrize(
    ("source", "said"),
    [("nostudy:show", "no module 'nostudy'"), ("nostudy", "names no function")],
)
def test_a_mistyped_module_is_found_before_anything_heavy(
    command: tuple[str, ...], source: str, said: str
) -> None:
    script = (
        "import sys, captum_ehr.cli\n"
        "try:\n"
        f"    captum_ehr.cli.app({[*command, source]})\n"
        "except SystemExit as end:\n"
        f"    print(end.code, *sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["1"]
    assert said in done.stderr and "Traceback" not in done.stderr


def test_importing_it_imports_nothing_heavy() -> None:
    script = (
        f"import sys, captum_ehr.cli; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_folder_without_the_tables_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ADMISSIONS.csv.gz").touch()
    (tmp_path / "PATIENTS.csv").touch()
    done = captum_ehr_cli("demo", "--mimic3", str(tmp_path))
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "lacks ICUSTAYS, DIAGNOSES_ICD, PROCEDURES_ICD, PRESCRIPTIONS" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--mimic3", "no such folder"),
        ("--patients", "0"),
        ("--epochs", "0"),
        ("--seed", "-1"),
        ("--out", str(Path(__file__))),
    ],
)
def test_bad_options_are_named(arguments: tuple[str, str]) -> None:
    done = captum_ehr_cli("demo", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_a_folder_that_cannot_be_made_is_said_in_a_line() -> None:
    done = CliRunner().invoke(app, ["demo", "--out", f"{__file__}/demo"])
    assert done.exit_code == 1 and "Not a directory" in done.output


STUDY = """
def swapped():
    from captum_ehr.datasets import tiny_model
    model, _ = tiny_model()
    return model.dataset, model

def broken():
    return {}["subject_id"]
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cli_study.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "cli_study", raising=False)


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("command", [("insights",), ("explain", "--out", "out")])
class TestStudy:
    def test_a_pair_the_wrong_way_round_is_said_in_a_line(
        self, command: tuple[str, ...]
    ) -> None:
        done = CliRunner().invoke(app, [*command, "cli_study:swapped"])
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
        assert "dataset" in done.output

    def test_where_the_function_itself_fails_is_shown(
        self, command: tuple[str, ...]
    ) -> None:
        done = CliRunner().invoke(app, [*command, "cli_study:broken"])
        assert isinstance(done.exception, KeyError)


@pytest.mark.parametrize(
    ("source", "option"),
    [
        *(("study:show", option) for option in ("--patients", "--epochs", "--seed")),
        *((str(ROOT), option) for option in ("--epochs", "--seed")),
    ],
)
def test_options_of_another_source_are_refused(source: str, option: str) -> None:
    done = CliRunner().invoke(app, ["insights", source, option, "3"])
    assert done.exit_code == 2 and "goes with --demo" in done.output


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = synthetic(12)
    observed = [float(k % 2) for k in range(12)]
    return write_cohort(tmp_path_factory.mktemp("cohort"), whole, observed=observed)


def test_a_cohort_is_reported(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    asked = ["report", str(cohort), "--out", str(path), "--patient", "p00002"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert path.name in done.output and "p00002" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "{cohort}", "--patient", "nobody"), "no patient 'nobody'"),
        (("report", "{empty}"), "cohort.json: there is no such file"),
        (("insights", "{empty}"), "it has no cohort.json"),
    ],
)
def test_what_is_no_cohort_or_patient_is_said(
    cohort: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    asked = [word.format(cohort=cohort, empty=tmp_path) for word in arguments]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1
    assert "".join(words.split()) in "".join(done.output.split())  # wrapped
