"""How many rows a model has evaluated, and how many it still may."""

from __future__ import annotations

from collections import Counter


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
        captum_ehr.attr.evaluation.meter.BudgetSpentError: ...
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
            raise BudgetSpentError(f"{rows} evaluations, and {left} left of the budget")
        self.spent[self.use] += rows
