"""The command line: ``captum-ehr``.

Only what parses the command line is imported here, so that ``--help`` answers at
once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
except ImportError as error:
    raise SystemExit(
        f"The command line needs {error.name}, which is not installed: "
        "pip install 'captum-ehr[cli]'"
    ) from None

from captum_ehr import __version__
from captum_ehr.demo.cohorts import DemoError
from captum_ehr.demo.mimic3 import TABLES, missing_tables
from captum_ehr.insights.study import StartError, model_and_dataset, named

app = typer.Typer(
    name="captum-ehr",
    help=(
        "Which part of a patient's record moved the model: exact attributions for "
        "PyHealth's models of health records, inside Captum.\n\n"
        "Begin with: captum-ehr demo"
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"captum-ehr {__version__}")
        raise typer.Exit


def _tables(root: Path | None) -> Path | None:
    """Refuse a folder without the tables before anything is loaded."""
    if root is not None and (missing := missing_tables(root)):
        raise typer.BadParameter(
            f"{root} lacks {', '.join(missing)} (as .csv or .csv.gz). It has to be a "
            f"folder with MIMIC-III's tables {', '.join(TABLES)}."
        )
    return root


@contextmanager
def _said(*kinds: type[Exception]) -> Iterator[None]:
    """End with a line where one of these errors came."""
    try:
        yield
    except kinds as error:
        parts = [getattr(error, name, None) for name in ("filename", "strerror")]
        words = ": ".join(str(part) for part in parts if part) or error
        typer.secho(f"Error: {words}", fg="red", err=True)
        raise typer.Exit(1) from None


def _unused(context: typer.Context, source: str, *options: str) -> None:
    """Refuse options that only another source takes."""
    for name in options:
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            raise typer.BadParameter(f"goes with {source}.", param_hint=f"--{name}")


def _target(words: str) -> Any:
    """A class by its index or label; ``label(2)`` is the label where 2 is both."""
    from captum_ehr import label

    if words.startswith("label(") and words.endswith(")"):
        return label(words[len("label(") : -1])
    return int(words) if words.isdecimal() else words


def _folder(words: str) -> Any:
    """An option for a folder with MIMIC-III's tables."""
    return typer.Option(
        exists=True, file_okay=False, callback=_tables, metavar="DIR", help=words
    )


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Explain models of health records."""


@app.command(epilog="Example: captum-ehr demo --out results --patients 50 --seed 1")
def demo(
    out: Annotated[
        Path,
        typer.Option(file_okay=False, help="The folder to write into; it is made."),
    ] = Path("demo"),
    mimic3: Annotated[
        Path | None,
        _folder(
            "Explain real patients: a folder with MIMIC-III's tables, as .csv or "
            ".csv.gz. Read by PyHealth's MIMIC3Dataset and MortalityPredictionMIMIC3; "
            "nothing is written there."
        ),
    ] = None,
    patients: Annotated[
        int, typer.Option(min=1, help="How many to hold out and explain; 30 % at most.")
    ] = 200,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="How long to train; else what suits the cohort."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Of the patients, the split and the training. With MIMIC-III, runs "
            "differ all the same: PyHealth reads records in no fixed order.",
        ),
    ] = 0,
) -> None:
    """Train two models, explain held-out patients, and write a report.

    Trains PyHealth's StageNet and Transformer on the built-in synthetic cohort, whose
    risk factors are known, and explains patients they have not seen. Shows the
    strongest codes of the cohort, with the planted ones marked, whether the
    attributions add up before any rescaling, and the time per patient. Takes a few
    minutes on two cores and no network.

    It writes:

    - report.html: the cohort's table and patients' visits; needs nothing else
    - timeline.png: one patient of high risk
    - attributions.parquet: one row per code or value; per model and patient,
      attribution sums to f_input - f_baseline
    - stagenet.parquet, transformer.parquet: for captum_ehr.Explanation.load
    """
    from rich.console import Console

    from captum_ehr.demo.run import run_demo

    console = Console(file=sys.stdout)
    with _said(DemoError, OSError):
        paths = run_demo(
            out, console, mimic3=mimic3, patients=patients, epochs=epochs, seed=seed
        )
    console.print("\nWritten:", *map(str, paths), sep="\n  ", highlight=False)


@app.command(
    epilog="Example: captum-ehr insights study:show --port 8000, where study.py has a "
    "function show() that returns (model, dataset).",
)
def insights(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:FUNCTION | DIR",
            help="A function that takes nothing and returns (model, dataset), a "
            "PyHealth model and its sample dataset, or an AttributionVisualizer; or "
            "the folder of an explained cohort, which needs no model.",
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Show the built-in cohort instead.")
    ] = False,
    mimic3: Annotated[
        Path | None, _folder("Show MIMIC-III instead: a folder with its tables.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")
    ] = 0,
    address: Annotated[
        str,
        typer.Option(
            help="The address to listen on. On any but this machine's own the records "
            "travel unencrypted; an SSH tunnel is better."
        ),
    ] = "127.0.0.1",
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PORT]",
            help="Another name that the browser may call it by, e.g. localhost:8000 "
            "for the near end of a tunnel; may be given several times.",
        ),
    ] = None,
    patients: Annotated[
        int, typer.Option(min=1, help="With --demo, --mimic3 or DIR: how many to show.")
    ] = 500,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="With --demo or --mimic3: how long to train."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="With --demo or --mimic3: of all that is drawn.")
    ] = 0,
) -> None:
    """Look at patients, and at what moved the model, in a browser.

    Serves a page on this machine: patients with their predictions, visits with coloured
    codes, labs over time, the strongest codes of the cohort; by any method, target and
    baseline, two of them side by side. Prints the address with the token that lets you
    in, and ends with Ctrl-C.
    """
    if (source is not None) + demo + (mimic3 is not None) != 1:
        raise typer.BadParameter(
            "give one of MODULE:FUNCTION, DIR, --demo and --mimic3.",
            param_hint="insights",
        )
    if source is not None:
        _unused(context, "--demo or --mimic3", "epochs", "seed")
        if not Path(source).is_dir():
            _unused(context, "--demo, --mimic3 or DIR", "patients")
            with _said(StartError):  # before anything heavy is loaded
                named(source)
    from rich.console import Console

    from captum_ehr.demo.live import demo_visualizer
    from captum_ehr.insights.launch import show

    console = Console(file=sys.stdout)
    content = source or demo_visualizer(
        console, mimic3=mimic3, patients=patients, epochs=epochs, seed=seed
    )
    where: Any = {"port": port, "address": address, "hosts": host or ()}
    with _said(DemoError, StartError, OSError):
        show(console, content, most=patients, **where)


@app.command(
    epilog="Example: captum-ehr explain study:show --out cohort --keep sex --keep age, "
    "where study.py has a function show() that returns (model, dataset).",
)
def explain(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="A function that takes nothing and returns (model, dataset), a "
            "PyHealth model, or an explainer of one, and a sample dataset.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            help="The folder to write into; it is made. If it has an interrupted run, "
            "that is gone on with.",
        ),
    ],
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Of a dask scheduler, such as tcp://host:8786."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Or so many worker processes on this machine."),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile it once; needs a C++ compiler.")
    ] = False,
    baseline: Annotated[
        str, typer.Option(help="unk, pad, typical, mean, median or pyhealth.")
    ] = "unk",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="What is explained: a label, or the index of an output; by default "
            "the predicted class of each.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="The class that the target is compared with: why the one rather than "
            "the other.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="How many samples at a time.")
    ] = 32,
    partition: Annotated[
        int, typer.Option(min=1, help="How many samples are written at a time.")
    ] = 2048,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An entry of the samples to keep beside the numbers, such as sex or "
            "age; may be given several times.",
        ),
    ] = None,
) -> None:
    """Explain every sample of a dataset into Parquet files.

    May be interrupted at any moment, and given again goes on where it was. Samples
    that cannot be explained are set aside with the reason. The folder is for its owner
    alone: it holds patients.
    """
    if scheduler is not None and workers is not None:
        words = "give one of --scheduler and --workers."
        raise typer.BadParameter(words, param_hint="explain")
    if against is not None and target is None:
        words = "--against compares a --target with another class; give both."
        raise typer.BadParameter(words, param_hint="explain")
    with _said(StartError):  # before anything heavy is loaded
        named(source)
    import logging

    from captum_ehr import contrast
    from captum_ehr.cohort import CohortError, explain_cohort

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("captum_ehr").setLevel(logging.INFO)
    what = None if target is None else _target(target)
    with _said(StartError):  # of errors in the function itself the place is shown
        study = model_and_dataset(source)
    with _said(CohortError, OSError, TypeError, ValueError, LookupError):
        explain_cohort(
            *study,
            out,
            baselines=baseline,
            target=what if against is None else contrast(what, _target(against)),
            batch_size=batch_size,
            partition=partition,
            client=scheduler or workers,
            compile=compile,
            columns=keep or (),
        )
    typer.echo(f"Explained: {out}")


@app.command(epilog="Example: captum-ehr report cohort --threshold 0.2 --patient p0017")
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="A cohort's folder."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="The file; by default report.html in DIR."),
    ] = None,
    title: Annotated[
        str, typer.Option(help="The heading; by default the model's name.")
    ] = "",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Positive from this probability on.")
    ] = 0.5,
    codes: Annotated[int, typer.Option(min=1, help="How many codes to show.")] = 20,
    patient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="A patient to show with all visits; may be given several times.",
        ),
    ] = None,
) -> None:
    """Write an explained cohort as one HTML page that needs nothing else.

    The model's performance, the strongest codes with bootstrap intervals, whether the
    attributions add up, and who could not be explained. Of single patients it shows
    those that are asked for.
    """
    from captum_ehr.cohort import Cohort, CohortError

    with _said(CohortError, ImportError, KeyError, OSError, ValueError):
        path = Cohort(folder).report(
            out or folder / "report.html",
            title=title,
            threshold=threshold,
            k=codes,
            patients=patient or (),
        )
    typer.echo(f"Written: {path}")


if __name__ == "__main__":
    app()
