"""The account of an explanation as a table, one line per operation and module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..propagation import AuditTape, TwoSided, foreign_functions, multipliers

if TYPE_CHECKING:
    import pandas as pd


def audited(
    sides: TwoSided,
    tape: AuditTape,
    value: Tensor,
    reference: Tensor,
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor, ...],
) -> pd.DataFrame:
    """Run the backward pass on the batch's change, and draw up the account.

    Every patient counts with the sign of its change, so that increases and decreases
    do not cancel; all shares are of the sum of the changes' absolute values.
    """
    import pandas as pd

    change = value.detach() - reference
    whole = change.abs().sum().clamp_min(torch.finfo(change.dtype).tiny)
    found = multipliers(value * (change.sign() / whole), inputs)
    with torch.no_grad():
        parts = zip(found, inputs, baselines)
        total = sum(float((m * (x - b)).double().sum()) for m, x, b in parts)
    delta = total - float((change.abs().sum() / whole).item())
    columns = "operation module calls rule exact share residual".split()
    table = pd.DataFrame(tape.lines(), columns=columns)
    table = table.sort_values("residual", ascending=False, kind="stable")
    foreign = foreign_functions(sides.output)
    name = ", ".join(foreign) or "linear operations"
    rest = [name, "", 0, "autograd", not foreign, float("nan"), abs(delta - tape.net())]
    table.loc[len(table)] = rest
    table.loc[len(table)] = ["all together", "", 0, "", True, 1.0, abs(delta)]
    exact = table["exact"].astype(bool)
    return table.assign(exact=exact).reset_index(drop=True)
