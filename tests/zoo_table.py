"""The zoo as a table: ``python tests/zoo_table.py zoo.md`` writes it as Markdown.

Configuration, the operations on the way from the inputs to the output, and the worst
patient's |Σ attributions - (f(x) - f(x0))| / |f(x) - f(x0)| before any rescaling, with
random and with trained weights in float32 and with random ones in float64; last, what
fell back on the path integral.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import zoo
from test_promises import SINGLE_PRECISION
from torch import Tensor
from tqdm import tqdm

from captum_ehr import DeepLiftEHR, Explanation

HEAD = "configuration|operations|random|trained|float64|fallback"


def explained(config: zoo.Config, *, trained: bool, double: bool) -> Explanation:
    dtype = torch.float64 if double else torch.float32
    model, batch = zoo.shared(config, trained, dtype=dtype)
    with zoo.default_dtype(dtype):
        return DeepLiftEHR(model, completeness="check").explain(batch)


def relative(delta: Tensor, change: Tensor) -> float:
    """The worst patient's |delta| / max(|change|, 1e-3·scale)."""
    change = change.abs()
    return float((delta.abs() / change.clamp(min=1e-3 * change.max())).max())


def error(explanation: Explanation) -> str:
    change = explanation.f_input - explanation.f_baseline
    return f"{relative(explanation.delta, change):.1e}"


def row(config: zoo.Config) -> list[str]:
    runs: list[Any] = [
        explained(config, trained=trained, double=False) for trained in (False, True)
    ]
    double = "–"
    if config.model not in SINGLE_PRECISION:
        with suppress(RuntimeError, ValueError):  # a part of it is in float32 anyway
            double = error(explained(config, trained=False, double=True))
    operations = runs[0].diagnostics.operations
    ran = ", ".join(f"{op.name} {op.calls}" for op in operations) or "linear"
    fallbacks = ", ".join(runs[0].diagnostics.fallbacks) or "none"
    return [str(config), ran, *map(error, runs), double, fallbacks]


def main(path: str) -> None:
    warnings.simplefilter("ignore")
    columns = HEAD.split("|")
    with Path(path).open("w") as file:
        for line in (columns, ["---"] * len(columns)):
            file.write(f"| {' | '.join(line)} |\n")
        for config in tqdm([*zoo.configs(), *zoo.mixing(), *zoo.drawing()]):
            file.write(f"| {' | '.join(row(config))} |\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
