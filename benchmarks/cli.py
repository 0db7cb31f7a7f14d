"""The command line: ``python -m benchmarks [PART ...] [--quick] [--fresh]``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console

from . import (
    captum_classes,
    cohort,
    completeness,
    cuda,
    faithfulness,
    interactions,
    memory,
    mimic3,
    report,
    results,
    scaling,
    speed,
    stability,
)

app = typer.Typer(add_completion=False)


class Part(NamedTuple):
    """One measurement.

    Args:
        jobs: From settings to what is measured, row by row.
        full: The settings.
        quick: Settings that take seconds.
    """

    jobs: Callable[[Any], Mapping[str, Callable[[], Any]]]
    full: Callable[..., Any]
    quick: Callable[..., Any]


MODULES = (
    completeness,
    speed,
    cuda,
    scaling,
    memory,
    faithfulness,
    stability,
    mimic3,
    captum_classes,
    interactions,
    cohort,
)

#: By name, in the order in which they run.
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        module.__name__.rpartition(".")[2].replace("_", "-"): Part(
            module.jobs, module.Settings, module.quick
        )
        for module in MODULES
    }
)

#: Made of what was measured: tables and figures.
REPORT = "report"


@app.command()
def main(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help=f"{', '.join(PARTS)} or {REPORT}; by default all of them."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny models: a trial of the programs.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what is there already.")
    ] = False,
    mimic3_root: Annotated[
        Path | None,
        typer.Option("--mimic3", help="Folder of MIMIC-III's tables, for that part."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--results",
            help="Folder of the JSON files; by default benchmarks/results, and "
            "build/benchmarks if quick.",
        ),
    ] = None,
    home: Annotated[
        Path,
        typer.Option(help="Where README.md and docs/ are; they stay if quick."),
    ] = Path(),
) -> None:
    """Measure DeepLiftEHR beside its peers, and put tables and figures into place.

    Each row is saved as it is measured: an interrupted run goes on where it was.
    """
    folder = folder or (results.QUICK if quick else results.HOME)
    try:
        for name in _chosen(parts or [], mimic3_root):
            if name == REPORT:
                report.write(folder, None if quick else home)
            else:
                measure(name, folder, mimic3_root, quick=quick, fresh=fresh)
    except (FileNotFoundError, report.MarkerError, ValueError) as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False)
        raise typer.Exit(1) from None


def _chosen(parts: list[str], root: Path | None) -> list[str]:
    """The parts in their order; all, but what there is no data for, if none is named.

    Raises:
        ValueError: If there is no such part, or it has no data.
    """
    known = [*PARTS, REPORT]
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise ValueError(f"No part {', '.join(unknown)}; they are {', '.join(known)}.")
    if "mimic3" in parts and root is None:
        raise ValueError("The part mimic3 needs --mimic3 FOLDER, with the tables.")
    wanted = parts or [part for part in known if part != "mimic3" or root]
    return [part for part in known if part in wanted]


def measure(
    name: str, folder: Path, root: Path | None, *, quick: bool, fresh: bool
) -> None:
    """Measure one part on one thread, without the models' own warnings.

    Args:
        name: The part.
        folder: Of the results.
        root: MIMIC-III's tables, if it is that part.
        quick: With settings that take seconds.
        fresh: Also what is there already.
    """
    part = PARTS[name]
    given = (root,) if name == "mimic3" else ()
    settings = (part.quick if quick else part.full)(*given)
    logging.getLogger("pyhealth").setLevel(logging.WARNING)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = name.replace("-", "_")
            results.collect(file, settings, part.jobs(settings), folder, fresh=fresh)
    finally:
        torch.set_num_threads(before)
