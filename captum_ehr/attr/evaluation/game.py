"""A model's explained output as a function of which players are there, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...adapter import FeatureMask, PyHealthAdapter
from ...propagation.missing import missing, where_known
from ..captums import drawn_alike
from ..inputs import Prepared
from ..outputs import per_patient_output, scored, select_again


class BudgetSpentError(RuntimeError):
    """What is asked for does not fit in what is left of the budget."""


class Meter:
    """Counts model evaluations by what they are for, and allows no more than so many.

    Example:
        >>> meter = Meter(10)
        >>> meter.use = "curves"
        >>> meter.charge(8)
        >>> meter.charge(3)
        Traceback (most recent call last):
            ...
        captum_ehr.attr.evaluation.game.BudgetSpentError: 3 evaluations; 2 are left
        >>> dict(meter.spent)
        {'curves': 8}
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.use = ""
        self.spent: Counter[str] = Counter()

    def charge(self, rows: int) -> None:
        """Count rows that are about to be evaluated.

        Raises:
            BudgetSpentError: If there are more than what is left; none is counted.
        """
        left = self.budget - self.spent.total()
        if rows > left:
            raise BudgetSpentError(f"{rows} evaluations; {left} are left")
        self.spent[self.use] += rows


class Explained(nn.Module):
    """The explained output of each row, in the form that Captum's classes take.

    Args:
        adapter: The model.
        output: ``"logit"`` or ``"probability"``.
        meter: What counts its rows.
        apart: Whether rows are evaluated one by one, as the model mixes them.
    """

    def __init__(
        self, adapter: PyHealthAdapter, output: str, meter: Meter, apart: bool
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.meter = meter
        self.apart = apart
        self._output = output

    def forward(self, *parts: Tensor) -> Tensor:
        """``(rows,)``: of inputs, additional arguments and, last, places."""
        self.meter.charge(len(parts[-1]))
        name = type(self.adapter.model).__name__
        forward = scored(self.adapter, self.adapter, self._output)
        outputs = per_patient_output(forward, name)
        rows = [tuple(p[k : k + 1] for p in parts) for k in range(len(parts[-1]))]
        pieces = rows if self.apart else [parts]
        return torch.cat([select_again(outputs(*p[:-1]), p[-1]) for p in pieces])


@dataclass(frozen=True, eq=False)
class Game:
    """What a patient's players are worth together, against the mean of references.

    A player that is absent has the reference's embeddings and values; padding and
    missing values are as in the record.

    Args:
        function: The explained output of rows: of inputs, additional arguments, and
            where the explained value stands in the model's output.
        prepared: The patients, and their references.
        places: ``(patients, ...)``.
        mask: Whose each place is.
        step: Rows that are evaluated at a time.
    """

    function: Callable[..., Tensor]
    prepared: Prepared
    places: Tensor
    mask: FeatureMask
    step: int = 512

    def count(self, patient: int) -> int:
        """How many players a patient has."""
        return len(self.mask.players[patient])

    def values(self, patient: int, coalitions: Tensor) -> Tensor:
        """``(coalitions,)`` float64, of ``(coalitions, players)`` booleans."""
        return self.outputs(torch.full((len(coalitions),), patient), coalitions)

    def outputs(self, patients: Tensor, present: Tensor) -> Tensor:
        """The same for rows of several patients, who may have fewer players."""
        counts = torch.tensor([len(players) for players in self.mask.players])
        most = int(counts.max()) + 1  # padding, which is nobody's, is always there
        there = torch.arange(most)[None, :] >= counts[patients][:, None]
        there[:, : present.shape[1]] |= present
        pieces = zip(patients.split(self.step), there.split(self.step))
        return torch.cat([self._piece(*piece) for piece in pieces])

    def _piece(self, patients: Tensor, present: Tensor) -> Tensor:
        prepared, device = self.prepared, self.prepared.inputs[0].device
        patients, present = patients.to(device), present.to(device)
        args: list[Any] = [
            arg[patients] if isinstance(arg, Tensor) and arg.dim() else arg
            for arg in (*prepared.args, self.places.to(device))
        ]
        each = []
        for reference in prepared.references:
            mixed = []
            for x, x0, numbers in zip(prepared.inputs, reference, self.mask):
                x, x0 = x.detach()[patients], x0[patients]
                whose = numbers.to(device)[patients]
                there = present.gather(1, whose.flatten(1)).view(whose.shape)
                value = torch.where(there, x, x0)
                mixed.append(where_known(value, x, missing(x, x0)))
            with torch.no_grad(), drawn_alike():
                each.append(self.function(*mixed, *args).double().cpu())
        return torch.stack(each).mean(0)
