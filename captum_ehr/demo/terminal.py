"""What the demo shows on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from captum_ehr.demo.cohorts import Cohort
from captum_ehr.demo.explaining import Explained
from captum_ehr.scene import population_scene
from captum_ehr.scene.wording import shorten

_ROWS = 15


def plain(console: Console, words: str) -> None:
    """A line where there is no terminal, on which a bar or a status would move."""
    if not console.is_terminal:
        console.print(words, highlight=False, markup=False)


def said(console: Console, status: Status, words: str) -> None:
    """What is being done, as the status or as a line."""
    status.update(f"{words} …")
    plain(console, words)


def epochs_said(
    say: Callable[[str], None], name: str, epochs: int
) -> Callable[[int, float], None]:
    """What :func:`~captum_ehr.demo.training.train` tells, said once per epoch."""
    begun = -1

    def step(epoch: int, loss: float) -> None:
        nonlocal begun
        if epoch > begun:
            begun = epoch
            say(f"training {name}, epoch {epoch + 1} of {epochs}")

    return step


def top_table(explained: Explained, cohort: Cohort, width: int) -> Table:
    """The strongest codes of the cohort, planted ones marked."""
    explanation, planted = explained.explanation, cohort.planted
    rows = population_scene(explanation, k=_ROWS, planted=planted).codes
    table = Table(
        title=f"{explained.name}: top codes by mean absolute attribution",
        title_justify="left",
        caption=_caption(cohort),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    numbers = ("mean |a|", "mean a", cohort.unit)
    widest = max((len(row.code) for row in rows), default=0) + 2
    # Each of the six columns has a blank on either side and one before the next.
    room = width - sum(map(len, numbers)) - widest - len("15") - 3 * 6 - 1
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("  code", no_wrap=True)
    table.add_column("name", no_wrap=True)
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.rank),
            Text(("★ " if row.is_planted else "  ") + row.code),
            Text(shorten(row.name if row.is_named else "", max(room, 8))),
            f"{row.mean_abs:.3f}",
            f"{row.mean:+.3f}",
            str(row.patients),
            style="bold" if row.is_planted else None,
        )
    return table


def _caption(cohort: Cohort) -> str:
    words = f"a: the sum in each of the {cohort.unit}, averaged over all"
    return f"★ planted; {words}" if cohort.planted else words


def account_table(results: Sequence[Explained], cohort: Cohort) -> Table:
    """Per model whether the attributions add up, by which rules, and how fast."""
    table = Table(
        title="Do the attributions add up?", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("", no_wrap=True)
    for explained in results:
        table.add_column(explained.name, overflow="fold")
    relative = [one.explanation.relative_delta for one in results]
    counted = [(one, len(one.explanation)) for one in results]
    rows = {
        "median |delta|/|f(x)-f(x0)|": [f"{one.median():.1e}" for one in relative],
        "largest, before rescaling": [f"{one.max():.1e}" for one in relative],
        "operations by exact rule": list(map(_rules, results)),
        "without an exact rule": [
            ", ".join(one.explanation.diagnostics.fallbacks) or "none"
            for one in results
        ],
        "time per patient": [f"{1e3 * one.seconds / n:.1f} ms" for one, n in counted],
        f"{cohort.unit} explained": [str(n) for _, n in counted],
        "the model's AUROC on them": list(map(_auroc, results)),
    }
    if cohort.planted:
        rows["ranks of the planted"] = [_ranks(one, cohort) for one in results]
    for head, cells in rows.items():
        table.add_row(head, *cells)
    return table


def _rules(explained: Explained) -> str:
    """How many operations each exact rule served, the busiest first."""
    calls: Counter[str] = Counter()
    for operation in explained.explanation.diagnostics.operations:
        if operation.exact:
            calls[operation.rule] += operation.calls
    rules = ", ".join(f"{rule} {count}" for rule, count in calls.most_common())
    return f"{calls.total()}: {rules}"


def _auroc(explained: Explained) -> str:
    if explained.auroc is None:
        return "unknown: all have one outcome"
    return f"{explained.auroc:.2f} ({explained.positives} with the outcome)"


def _ranks(explained: Explained, cohort: Cohort) -> str:
    ranks = population_scene(explained.explanation, planted=cohort.planted).planted
    words = ", ".join(str(rank) for _, rank in ranks if rank is not None)
    absent = sum(rank is None for _, rank in ranks)
    return words + (f"; {absent} in no patient" if absent else "")
