"""What ``captum-ehr insights`` shows: a user's own, or the demo's patients."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .visualizer import AttributionVisualizer

if TYPE_CHECKING:
    from rich.console import Console

    from ..demo.cohorts import Cohort


class StartError(Exception):
    """What cannot be shown, in words for the person who asked for it."""


def load(spec: str) -> AttributionVisualizer:
    """Call a function that gives a model and a dataset, and show those.

    Args:
        spec: ``module:function``; the module is looked for in the working folder too.
            The function takes nothing and returns an
            :class:`~captum_ehr.insights.AttributionVisualizer`, or its first two
            arguments: a model and a dataset.

    Raises:
        StartError: If there is no such function, or it returns something else.

    Example:
        >>> load("math")
        Traceback (most recent call last):
        captum_ehr.insights.launch.StartError: 'math' names no function; write
        module:function, e.g. study:show.
    """
    name, _, function = spec.partition(":")
    if not name or not function:
        raise StartError(
            f"{spec!r} names no function; write module:function, e.g. study:show."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        raise StartError(
            f"There is no module {name!r} in {Path.cwd()} or the Python environment."
        ) from None
    show: Any = module
    for part in function.split("."):
        show = getattr(show, part, None)
    if not callable(show):
        raise StartError(f"{name} has no function {function!r}.")
    study = show()
    if isinstance(study, AttributionVisualizer):
        return study
    if not isinstance(study, tuple) or len(study) != 2:
        raise StartError(
            f"{spec} returned {type(study).__name__}, expected (model, dataset) or an "
            "AttributionVisualizer."
        )
    return AttributionVisualizer(*study)


@contextmanager
def demo(
    console: Console,
    *,
    mimic3: Path | None = None,
    patients: int = 500,
    epochs: int | None = None,
    seed: int = 0,
) -> Iterator[AttributionVisualizer]:
    """Train the demo's two models and give its held-out patients to look at.

    Args:
        console: Where to show progress.
        mimic3: A folder with MIMIC-III's tables, instead of the built-in cohort.
        patients: How many held-out patients, at most.
        epochs: How long to train; the cohort's own default if None.
        seed: Of everything that is drawn.

    Yields:
        The visualizer; with MIMIC-III, PyHealth's copies of the tables go when the
        block ends.

    Raises:
        DemoError: If the data do not suffice.
    """
    from ..demo.cohorts import synthetic_demo_cohort
    from ..demo.mimic3 import mimic3_cohort
    from ..demo.quiet import quiet
    from ..demo.training import MODELS, build_model, train

    # Beside the work, because records may have to stay on the disk that was chosen.
    with tempfile.TemporaryDirectory(
        dir=Path.cwd() if mimic3 else None,
        prefix=".pyhealth-",
        ignore_cleanup_errors=True,
    ) as scratch:
        with quiet(), console.status("Loading PyHealth and the patients …") as status:
            if mimic3 is None:
                cohort = synthetic_demo_cohort(held_out=patients, seed=seed)
            else:
                cohort = mimic3_cohort(mimic3, Path(scratch), patients, seed)
            models = []
            for name in MODELS:
                status.update(f"Training {name} …")
                models.append(build_model(name, cohort.dataset, seed))
                length = epochs or cohort.epochs
                train(models[-1], cohort, length, seed, lambda epoch, loss: None)
        yield of_cohort(models, cohort)


def show(
    console: Console,
    source: str | None,
    *,
    port: int,
    address: str,
    hosts: Sequence[str] = (),
    **options: Any,
) -> None:
    """Serve a user's model, or the demo's, until the process is told to end.

    Args:
        console: Where to print the address with its token.
        source: ``module:function``, or None for the demo.
        port: The port; 0 for a free one.
        address: The address to listen on.
        hosts: See :func:`captum_ehr.insights.serve`.
        **options: See :func:`demo`.

    Raises:
        StartError: See :func:`load`.
        DemoError: See :func:`demo`.
        PortInUseError: If the port is taken.
    """
    from .server import probe

    # Before minutes of training, not after.
    probe(address, port)
    with ExitStack() as stack:
        if source is None:
            visualizer = stack.enter_context(demo(console, **options))
        else:
            visualizer = load(source)
        # The page says what is not exact; libraries' warnings would bury the address.
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        server = visualizer.serve(port=port, address=address, hosts=hosts)
        words = f"{len(visualizer)} patient(s). Open this address; Ctrl-C ends it:"
        console.print(words, highlight=False)
        # In one piece, however narrow the terminal.
        console.print(server.url, style="bold", soft_wrap=True, highlight=False)
        server.wait()
        console.print("Stopped.")
    if server.is_computing:
        # Native code cannot be told to end, and Python aborts where it cuts it off.
        sys.stdout.flush()
        os._exit(0)


def of_cohort(
    models: list[Any], cohort: Cohort, **options: Any
) -> AttributionVisualizer:
    """The held-out patients of one of the demo's cohorts.

    Args:
        models: Trained on it.
        cohort: Whose patients.
        **options: More for the :class:`~captum_ehr.insights.AttributionVisualizer`.
    """
    return AttributionVisualizer(
        models,
        (f"no {cohort.outcome}", cohort.outcome),
        dataset=cohort.held_out,
        names=cohort.names,
        readable=cohort.readable,
        time_label=cohort.time_label,
        title=cohort.title.replace("captum_ehr demo", "EHR Insights"),
        **options,
    )
