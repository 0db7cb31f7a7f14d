"""Peak memory of one attribution, over that of the plain forward-and-backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import bert, peers
from .families import FULL, MEASURED, TINY, Family, Size, named
from .live_memory import peak
from .peers import Case
from .scaling import case_of
from .speed import WARM, forward_backward

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        batch: Patients.
        lengths: Codes of a history.
        berts: Layers and tokens of one patient, of a BERT with fused attention.
        seconds: How long one measurement may take; what is expected to take longer,
            in proportion to the one before, is left out.
    """

    models: tuple[str, ...] = MEASURED
    size: Size = FULL
    batch: int = 16
    lengths: tuple[int, ...] = (20, 60, 200, 1000)
    berts: tuple[tuple[int, int], ...] = ((12, 512), (2, 2048))
    seconds: float = 100.0


@dataclass(frozen=True)
class Point:
    """One length: MiB of the plain forward-and-backward, and of methods."""

    length: int
    forward_backward: float
    ours: float
    pyhealth_deeplift: float | None

    @property
    def ratio(self) -> float:
        """Ours over the plain model's."""
        return self.ours / self.forward_backward


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        model: Its name.
        points: By length, as far as it goes.
        left_out: By length, why it was not measured.
    """

    model: str
    points: list[Point]
    left_out: dict[str, str]


def quick() -> Settings:
    """Settings that take seconds."""
    return Settings(("MLP (ReLU)", "RNN (GRU)"), TINY, 4, (5, 8), ((1, 16),))


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model."""
    rows = {f.name: partial(_row, f, settings) for f in named(*settings.models)}
    berts = (partial(_bert, *size) for size in settings.berts)
    return rows | {f"BERT, {job.args[0]} layers, 1 patient": job for job in berts}


def _bert(layers: int, length: int) -> Row:
    case = bert.Case.of(layers, length)
    bert.ours(case)
    sides = (peak(partial(f, case)) / MIB for f in (bert.forward_backward, bert.ours))
    return Row(f"BERT, {layers} layers, 1 patient", [Point(length, *sides, None)], {})


def _row(family: Family, settings: Settings) -> Row:
    points: list[Point] = []
    left_out: dict[str, str] = {}
    taken = 0.0
    for place, length in enumerate(settings.lengths):
        awaited = taken * length / settings.lengths[place - 1] if points else 0.0
        if awaited > settings.seconds or left_out:
            left_out[str(length)] = f"expected to take {awaited:.0f} s"
            continue
        case = case_of(family, settings.size, settings.batch, length)
        start = time.perf_counter()
        try:
            points.append(_point(case, length))
        except (RuntimeError, ValueError, IndexError) as error:
            left_out[str(length)] = peers.refusal(error)
        taken = time.perf_counter() - start
    return Row(family.name, points, left_out)


def _point(case: Case, length: int) -> Point:
    for _ in range(WARM):  # what is made once stays, and is not the measurement's
        peers.ours(case)
    try:
        theirs = peak(lambda: peers.pyhealth_deeplift_default(case)) / MIB
    except Exception:  # the speed part says why
        theirs = None
    return Point(
        length,
        peak(lambda: forward_backward(case)) / MIB,
        peak(lambda: peers.ours(case)) / MIB,
        theirs,
    )
