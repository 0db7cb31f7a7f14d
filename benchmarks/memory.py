"""Peak memory of one attribution, over that of the plain forward-and-backward."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import peers
from .families import FULL, MEASURED, TINY, Family, Size, named
from .peers import Case
from .scaling import case_of
from .speed import forward_backward

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        models: Names of families.
        size: Sizes of the models.
        batch: Patients.
        lengths: Codes of a history.
        seconds: How long one measurement may take; what is expected to take longer,
            in proportion to the one before, is left out.
    """

    models: tuple[str, ...] = MEASURED
    size: Size = FULL
    batch: int = 16
    lengths: tuple[int, ...] = (20, 60, 200, 1000)
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
    return Settings(("MLP (ReLU)", "RNN (GRU)"), TINY, 4, (5, 8))


def jobs(settings: Settings) -> dict[str, Callable[[], Row]]:
    """One per model."""
    return {f.name: partial(_row, f, settings) for f in named(*settings.models)}


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
    peers.ours(case)  # what is made once stays, and is not the measurement's
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


def peak(run: Callable[[], Any]) -> int:
    """Bytes that tensors held at most while this ran, beyond those from before.

    Every storage counts from the operation that makes it until nobody holds it; what
    an operation holds only inside of itself does not.
    """
    with _Live() as live:
        run()
    return live.most


class _Live(TorchDispatchMode):
    """Follows the storages that operations make, of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and count what it made that was not given to it."""
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._see(tensor, 0)
        found = func(*args, **kwargs)
        for tensor in _tensors(found):
            self._see(tensor, tensor.untyped_storage().nbytes())
        return found

    def _see(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return

        def gone(_: Any) -> None:
            self.held -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)
        self.held += size
        self.most = max(self.most, self.held)


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]
