"""The command line: ``python -m benchmarks [PART] [--quick]``."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from . import (
    captum_classes,
    captum_table,
    completeness,
    faithfulness,
    results,
    speed,
    table,
)

app = typer.Typer(add_completion=False)

Quick = Annotated[
    bool, typer.Option("--quick", help="Tiny models: a trial of the programs.")
]
Results = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the JSON files; by default benchmarks/results, and "
        "build/benchmarks if quick."
    ),
]
Readme = Annotated[Path, typer.Option(help="Where the table goes; not if quick.")]
CaptumIG = Annotated[
    bool, typer.Option("--captum-ig", help="Time Captum's Integrated Gradients too.")
]


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    quick: Quick = False,
    results: Results = None,
    captum_ig: CaptumIG = False,
    readme: Readme = Path("README.md"),
) -> None:
    """Measure DeepLiftEHR beside its peers; without a PART, all of them."""
    if context.invoked_subcommand is None:
        time(quick, results, captum_ig)
        add_up(quick, results)
        agree(quick, results)
        tabulate(quick, results, readme)
        try_classes(quick, results, readme)


@app.command("speed")
def time(
    quick: Quick = False, results: Results = None, captum_ig: CaptumIG = False
) -> None:
    """Time of one attribution over that of the plain model."""
    full = replace(speed.Settings(), captum_ig=captum_ig)
    settings = speed.quick(captum_ig=captum_ig) if quick else full
    _run("speed", speed.measure, settings, _folder(quick, results))


@app.command("completeness")
def add_up(quick: Quick = False, results: Results = None) -> None:
    """How far raw attributions are from adding up."""
    settings = completeness.quick() if quick else completeness.Settings()
    _run("completeness", completeness.measure, settings, _folder(quick, results))


@app.command("faithfulness")
def agree(quick: Quick = False, results: Results = None) -> None:
    """Correlation with sampled Shapley values."""
    settings = faithfulness.quick() if quick else faithfulness.Settings()
    _run("faithfulness", faithfulness.measure, settings, _folder(quick, results))


@app.command("table")
def tabulate(
    quick: Quick = False,
    results: Results = None,
    readme: Readme = Path("README.md"),
) -> None:
    """Make the table of the results that are there, and put it into the README."""
    folder = _folder(quick, results)
    try:
        made = table.markdown(_load(folder))
        (folder / "table.md").write_text(made)
        Console().print(made, markup=False, soft_wrap=True)
        if not quick:
            table.write(readme, made)
    except (FileNotFoundError, table.MarkerError) as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None


@app.command("captum-classes")
def try_classes(
    quick: Quick = False,
    results: Results = None,
    readme: Readme = Path("docs/captum.md"),
) -> None:
    """Which of Captum's classes work on which models, and their table."""
    settings = captum_classes.quick() if quick else captum_classes.Settings()
    folder = _folder(quick, results)
    _run("captum_classes", captum_classes.measure, settings, folder)
    made = captum_table.markdown(_load_part("captum_classes", folder))
    (folder / "captum_classes.md").write_text(made)
    if quick:
        return
    try:
        table.write(readme, made, captum_table.BEGIN, captum_table.END)
    except table.MarkerError as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None


def _folder(quick: bool, given: Path | None) -> Path:
    return given or (results.QUICK if quick else results.HOME)


def _load(folder: Path) -> Any:
    return results.load(folder)


def _load_part(part: str, folder: Path) -> Any:
    return results.load_part(part, folder)


def _run(part: str, measure: Any, settings: Any, folder: Path) -> None:
    """Measure one part on one thread, without the models' own warnings."""
    torch.set_num_threads(1)
    logging.getLogger("pyhealth").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = measure(settings)
    path = results.save(part, settings, rows, folder)
    Console().print(f"{len(rows)} models: {path}", markup=False)
