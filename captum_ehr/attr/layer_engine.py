"""The engine of layers: what passes them, and what goes past them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr._utils.common import _call_custom_attribution_func
from torch import Tensor, nn

from ..propagation import multipliers
from .completeness import balance
from .engine import Engine, View
from .inputs import Prepared, prepare
from .layer_tap import Owner, Watch
from .outputs import select_again
from .result import Result
from .segments import Run


class LayerEngine(Engine):
    """Attributes to the tensors of layers as if they were inputs of the model.

    The last of a result's attributions is ``(batch,)``: what goes past the layers,
    which is the inputs' own part where the graph is cut at the layers; NaN where the
    layers' tensors have no patients. The others have the patients first.
    """

    watch: Watch

    def prepare(self, inputs: Any, baselines: Any, args: Any) -> Prepared:
        """Inputs and references, which may be integers."""
        prepared = prepare(self.model, inputs, baselines, args, integers=True)
        self.watch.inputs = len(prepared.inputs)
        self.watch.patients = len(prepared.inputs[0])
        return prepared

    def _single(self, prepared: Prepared, target: Any) -> Result:
        """Always by the passes, which alone run the layers."""
        return self._slice(prepared, target, None, False)

    def forward_view(self, look: Callable[[nn.Module], object] | None = None) -> View:
        """The model's forward, whose layers are watched."""
        view = super().forward_view(self.watch.look)
        return view._replace(forward=self.watch.watched(view.forward))

    def _against(
        self, prepared: Prepared, run: Run, baselines: tuple[Tensor, ...], custom: Any
    ) -> Result:
        """The layers' attributions against one reference."""
        at_baseline = run.against(baselines)
        here, there = self.watch.passes[0], self.watch.passes[-1]
        shapes = [[tuple(h.shape) for h in side.parts] for side in (here, there)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The layer's tensors have shapes {shapes[0]} at the input and "
                f"{shapes[1]} at the reference; choose a reference of the same "
                "structure."
            )
        sides = [(x, b) for x, b in zip(prepared.inputs, baselines) if x.requires_grad]
        outside = (*(x for x, _ in sides), *here.numbers)
        ms = multipliers(run.explained(run.value), (*here.parts, *outside), run.again)
        ms, beyond = ms[: len(here.parts)], ms[len(here.parts) :]
        size = len(prepared.inputs[0])
        owners, numbers = self.watch.owners(size)
        with torch.no_grad():
            parts = tuple(h.detach() for h in here.parts)
            shares = tuple(m * (h - r) for m, h, r in zip(ms, parts, there.parts))
            if custom is not None:
                shares = _call_custom_attribution_func(custom, ms, parts, there.parts)
            ends = (*(b for _, b in sides), *there.numbers)
            rest = [m * (x - b) for m, x, b in zip(beyond, outside, ends)]
            inner = _sums(shares, owners, size)
            outer = _sums(rest, [*([0] * len(sides)), *numbers], size)
            whole = self.multiplies_by_inputs or custom is not None
            uncut = run.row is None and size == self.watch.patients
            rows = self._rows(run, shares if whole else ms, owners, uncut)
            outputs = run.output, at_baseline
            coarse = self._rounded_at(run.index, *outputs)
            return _compared(run, at_baseline, rows, inner, outer, coarse)

    def _rows(
        self, run: Run, parts: Sequence[Tensor], owners: Sequence[Owner], uncut: bool
    ) -> list[Tensor]:
        """The layers' tensors with the patients first, or only the one that counts."""
        row, rows = run.row, []
        for part, owner in zip(parts, owners):
            if isinstance(owner, int):
                part = part.movedim(owner, 0)
                rows.append(part if row is None else part[row : row + 1])
            elif uncut:
                rows.append(part)
            else:
                raise ValueError(
                    f"A tensor of the layer has shape {tuple(part.shape)}, without an "
                    "axis for the patients, who can only be explained together: leave "
                    "internal_batch_size away, or say mixing='together'."
                )
        self.watch.same_shapes(rows)
        return rows


def _compared(
    run: Run,
    at_baseline: Tensor,
    rows: Sequence[Tensor],
    inner: Tensor | None,
    outer: Tensor | None,
    coarse: Tensor | None,
) -> Result:
    """How the sums ``(batch, 2)``, Σ and Σ|.|, compare with f(x) - f(x0)."""
    here = slice(None) if run.row is None else slice(run.row, run.row + 1)
    f_input = run.value.detach()[here]
    f_baseline = select_again(at_baseline, run.index)[here]
    size = None if coarse is None else coarse[here]
    change = (f_input - f_baseline).double()
    past = torch.full_like(change, torch.nan)
    gross = change.abs()
    total = change
    if inner is not None:
        through, gross = inner[here, 0], inner[here, 1]
        past = change - through
        if outer is not None:
            past = outer[here, 0]
            gross = gross + outer[here, 1]
            if run.row is not None:  # what the others' rows do to this one
                every = inner.sum(0) + outer.sum(0)
                past, gross = every[:1] - through, every[1:]
        total = through + past
    sums = balance((total.unsqueeze(1),), f_input, f_baseline, lambda: gross, size)
    last = past.to(f_input.dtype)
    return Result((*rows, last), f_input, f_baseline, run.index[here], sums)


def _sums(
    shares: Sequence[Tensor], owners: Sequence[Owner], size: int
) -> Tensor | None:
    """``(batch, 2)``: Σ and Σ|.| per patient, None where a tensor has no patients."""
    device = shares[0].device if shares else None
    total = torch.zeros(size, 2, dtype=torch.float64, device=device)
    for share, owner in zip(shares, owners):
        if owner is None:
            return None
        rows = share.movedim(owner, 0) if isinstance(owner, int) else share
        rows = rows.double().reshape(len(rows), -1)
        both = torch.stack([rows.sum(1), rows.abs().sum(1)], 1)
        if isinstance(owner, int):
            total = total + both
        else:
            total = total.index_add(0, owner, both)
    return total
