"""What ``captum-ehr insights`` shows, and how it is served."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .shown import ShownViewer
from .study import StartError, called
from .visualizer import AttributionVisualizer

if TYPE_CHECKING:
    from rich.console import Console


def load(spec: str, most: int = 500) -> ShownViewer:
    """Open a cohort, or call a function that gives a model and a dataset.

    Args:
        spec: A cohort's folder; or see :func:`called`. The function returns an
            :class:`~captum_ehr.insights.AttributionVisualizer`, or its first two
            arguments: a model and a dataset.
        most: How many samples of a cohort are shown.
    """
    if Path(spec).is_dir():
        return _cohort(spec, most)
    study = called(spec)
    if isinstance(study, ShownViewer):
        return study
    if not isinstance(study, tuple) or len(study) != 2:
        raise StartError(
            f"{spec} returned {type(study).__name__}, expected (model, dataset) or an "
            "AttributionVisualizer."
        )
    try:
        return AttributionVisualizer(*study)
    except (TypeError, ValueError) as error:
        raise StartError(str(error)) from None


def _cohort(folder: str, most: int) -> ShownViewer:
    from ..cohort import CohortError
    from .cohort_viewer import CohortViewer

    try:
        return CohortViewer(folder, max_patients=most)
    except FileNotFoundError as error:
        raise StartError(
            f"{folder} is no cohort's folder: it has no {Path(error.filename).name}."
        ) from None
    except CohortError as error:
        raise StartError(str(error)) from None


def show(
    console: Console,
    source: str | AbstractContextManager[ShownViewer],
    *,
    port: int,
    address: str,
    hosts: Sequence[str] = (),
    most: int = 500,
) -> None:
    """Serve patients, so many of a cohort at most, until the process is told to end."""
    from .server import probe

    # Before minutes of training, not after.
    probe(address, port)
    with ExitStack() as stack:
        if isinstance(source, str):
            visualizer = load(source, most)
        else:
            visualizer = stack.enter_context(source)
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
