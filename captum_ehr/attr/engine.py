"""Captum's DeepLift on the multipliers of the calculus."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import torch
from captum.attr import DeepLift
from captum.attr._utils.common import _call_custom_attribution_func
from torch import Tensor, nn

from ..adapter import PyHealthAdapter, module_rules
from ..adapter.fast_stagenet import hasten
from ..propagation import (
    Rule,
    Tape,
    module_types,
    multipliers,
    recorded,
    viewed,
    with_rules,
)
from ..propagation.explain import settled
from ..propagation.missing import missing, nan_without_answer, where_known
from ..propagation.registry import Table
from .completeness import (
    AttributionWarning,
    Completeness,
    CompletenessError,
    balance,
    mixes,
)
from .diagnosis import APART, MIXED, account, noted
from .inputs import Prepared, prepare
from .options import check, check_rules, explained
from .outputs import per_patient_output, rounded_at, scored
from .result import Result, Run, averaged, joined
from .segments import averaged_over, point
from .shares import Parts, absolute_sums, summing, times_change
from .slicing import sliced
from .targets import Target, confusion, per_patient, select, select_again


class Engine(DeepLift):
    """What the explainers share: two passes in place of hooks, and the account.

    Of Captum's ``DeepLift`` these are the arguments, what stands in place of its hooks
    and gradients is the calculus, and custom attribution functions are called by
    Captum's own helper.

    Args:
        model: See :class:`captum_ehr.DeepLiftEHR`, for all of these.
        multiply_by_inputs: As in Captum.
        eps: As in Captum; nothing here needs it.
        sum_tokens: Sum attributions over the embedding dimension.
        completeness: What to do about the residual.
        output: The scale of the explained output.
        attribute_time: Attribute to times as well.
        rules: Rules of a user's own.
        mixing: For models whose patients influence each other.
        internal_batch_size: So many patients at a time.
        segments: Pieces of the line from reference to input.
    """

    def __init__(
        self,
        model: nn.Module,
        multiply_by_inputs: bool = True,
        eps: float = 1e-10,
        *,
        sum_tokens: bool = True,
        completeness: Completeness = "rescale",
        output: str = "logit",
        attribute_time: bool = False,
        rules: Mapping[Any, Rule] | None = None,
        mixing: Literal["apart", "together"] = "apart",
        internal_batch_size: int | None = None,
        segments: int = 1,
    ) -> None:
        check(output, completeness, mixing, internal_batch_size, segments)
        check_rules(rules)
        model = explained(model, output, attribute_time)
        DeepLift.__init__(self, model, multiply_by_inputs=multiply_by_inputs, eps=eps)
        self.sum_tokens = sum_tokens
        self.completeness = completeness
        self.output = output
        self.rules = dict(rules or {})
        self._tabulate()
        self.mixing = mixing
        self.internal_batch_size = internal_batch_size
        self.segments = segments

    def _tabulate(self) -> None:
        """Look up the table of rules: the model's, and the user's on top."""
        own = module_rules() if isinstance(self.model, PyHealthAdapter) else {}
        self.table = with_rules(self.rules, _table_of(tuple(own.items())))
        self.types = module_types({**own, **self.rules})

    def __getstate__(self) -> dict[str, Any]:
        """All but the table, which holds closures and is looked up again."""
        state = dict(self.__dict__)
        del state["table"], state["types"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tabulate()

    def prepare(self, inputs: Any, baselines: Any, args: Any) -> Prepared:
        """Inputs and references as plain tensors."""
        return prepare(self.model, inputs, baselines, args)

    def forward_view(
        self, look: Callable[[nn.Module], object] | None = None
    ) -> tuple[Callable[..., Tensor], Mapping[Any, int]]:
        """The model's forward on a private view, and the labels of its outputs.

        Args:
            look: Called with the view of the model before it runs.
        """
        forward, labels = self.model_view(look)
        inside = getattr(self.model, "model", self.model)
        return per_patient_output(forward, type(inside).__name__), labels

    def model_view(
        self, look: Callable[[nn.Module], object] | None = None
    ) -> tuple[Callable[..., Any], Mapping[Any, int]]:
        """The same, whatever the model returns."""

        def view(model: nn.Module) -> Any:
            seen = viewed(model, self.table, self.types)
            if look is not None:
                look(seen)
            hasten(seen)
            return seen

        if isinstance(self.model, PyHealthAdapter):
            forward = self.model.private(view)
            return scored(self.model, forward, self.output), self.model.labels
        return view(self.model), {}

    def run(
        self,
        inputs: Any,
        baselines: Any,
        target: Target,
        args: Any,
        custom: Any,
        each: bool = False,
        tokens: bool = False,
    ) -> tuple[Prepared, Result]:
        """Prepare, run in slices, measure completeness, and say what is not exact.

        Args:
            inputs: See :meth:`captum_ehr.DeepLiftEHR.attribute`, for all but the last
                two.
            baselines: The references.
            target: The explained outputs.
            args: Additional arguments of the forward.
            custom: A custom attribution function, or None.
            each: Keep the attributions of every reference, not their mean alone.
            tokens: Sums over the embedding dimension are all that is wanted.
        """
        grad = torch.is_grad_enabled()  # so also where a fault hits what sets it back
        with torch.set_grad_enabled(grad), torch.inference_mode(False):
            prepared = self.prepare(inputs, baselines, args)
            if tokens and custom is None and self.multiplies_by_inputs:
                prepared = prepared.in_sums(self.model)
            size = prepared.inputs[0].shape[0]
            step = self.internal_batch_size or size
            targets = None if target is None else per_patient(target, size)
            self._doubt(targets or ())
            parts = [
                self._unmixed(piece, targets and targets[k : k + step], custom, each)
                for k, piece in sliced(prepared, step, self._output)
            ]
            result = joined(parts)
        looked_after = custom is None and self.multiplies_by_inputs
        mode = self.completeness if looked_after else "off"
        if mode == "raise" and bool(result.balance.off.any()):
            raise CompletenessError(" ".join(result.diagnostics.messages))
        if mode == "rescale":
            result = result.rescaled()
        for message in result.diagnostics.messages:
            warnings.warn(message, AttributionWarning, stacklevel=4)
        return prepared, result

    def _doubt(self, targets: Sequence[Any]) -> None:
        """Say of a number that is one class's index and another's label what it is."""
        labels = getattr(self.model, "labels", None) if targets else None
        if labels and (words := confusion(targets, labels)):
            warnings.warn(words, AttributionWarning, stacklevel=5)

    def _output(self, prepared: Prepared) -> Tensor:
        """The model's output, without any explanation."""
        forward, _ = self.forward_view()
        with torch.no_grad():
            own = (x.detach().clone() for x in prepared.inputs)
            return forward(*own, *prepared.args)

    def _unmixed(
        self, prepared: Prepared, target: Any, custom: Any, each: bool
    ) -> Result:
        """A slice of patients, one after the other if the model mixes them.

        In a model whose patients influence each other (a recurrence over the batch,
        clusters) the sums are right for the slice and wrong for its patients.
        """
        together = self._slice(prepared, target, custom, each)
        found = together.balance
        if custom is not None or not mixes(found):
            return together
        if self.mixing == "together":
            return replace(together, diagnostics=noted(together.diagnostics, MIXED))
        apart = self._slice(prepared, together.index, custom, each, apart=True)
        return replace(apart, diagnostics=noted(apart.diagnostics, APART))

    def _slice(
        self,
        prepared: Prepared,
        target: Any,
        custom: Any,
        each: bool,
        apart: bool = False,
    ) -> Result:
        """A slice: one input pass for all references, and all patients if apart.

        Each further segment has input passes of its own.
        """
        own = prepared.fresh()
        forward, labels = self.forward_view()
        rows = range(len(own.inputs[0])) if apart else (None,)
        again = len(own.references) * len(rows) > 1
        tape = Tape(self.table, lasting=again, seeks_missing=False)
        record = partial(recorded, forward, args=own.args)

        def attempt() -> Result | None:
            found, reports = [], []
            with recorded(forward, own.inputs, own.args, tape) as (output, against):
                value, index = select(output, target, labels)
                for row in rows:
                    run = Run(output, value, index, against, record, row, again, tape)
                    found.append(self._averaged(own, run, custom, each))
                    reports += run.reports
                report = sum(reports, tape.diagnostics())
            result = joined(found)
            if not tape.seeks_missing and not result.finite:
                tape.seeks_missing = True
                return None
            checked = custom is None and self.completeness != "off"
            return replace(result, diagnostics=account(report, output, result, checked))

        result = settled(tape, attempt) or settled(tape, attempt)
        assert result is not None
        return result

    def _averaged(self, own: Prepared, run: Run, custom: Any, each: bool) -> Result:
        """The mean over the references: of a batch, or of one patient in it."""
        references = (own if run.row is None else own.but(run.row)).references
        return averaged([self._against(own, run, b, custom) for b in references], each)

    def _against(
        self, own: Prepared, run: Run, baselines: tuple[Tensor, ...], custom: Any
    ) -> Result:
        """The attributions against one reference."""
        found = self._multipliers(run, own.inputs, baselines)
        inputs, references = own.inputs, baselines
        if run.tape.seeks_missing:
            places = [missing(x, b) for x, b in zip(inputs, references)]
            inputs, references = _known(inputs, places), _known(references, places)
            found = _known(found, places)
        with torch.no_grad():
            parts = (found, inputs, references)
            attributions = measured = self._shared(own, parts, custom)
            if custom is None and not self.multiplies_by_inputs:
                measured = times_change(*parts)
            index, row = run.index, run.row
            values = run.value.detach(), run.f_baseline
            if row is not None:
                index, attributions = index[row : row + 1], _row(attributions, row)
                values, measured = _row(values, row), _row(measured, row)
                parts = _row(found, row), _row(inputs, row), _row(references, row)
            # of what was not summed yet, if it is asked for at all
            gross = partial(absolute_sums, *parts) if own.summed else None
            size = rounded_at(self.model, self.output, *values)
            sums = balance(measured, *values, gross, size)
        detached = tuple(a.detach() for a in attributions)
        return Result(nan_without_answer(detached, *values), *values, index, sums)

    def _shared(
        self, own: Prepared, parts: tuple[Parts, Parts, Parts], custom: Any
    ) -> Parts:
        """Attributions from multipliers, inputs and references."""
        if custom is not None:
            found: Parts = _call_custom_attribution_func(custom, *parts)
            return found
        if not self.multiplies_by_inputs:
            return parts[0]
        return summing(own.summed)(*parts) if own.summed else times_change(*parts)

    def _multipliers(self, run: Run, inputs: Parts, baselines: Parts) -> Parts:
        """The chain rule, from the explained value into the inputs alone."""
        end: Sequence[Tensor] = baselines
        if self.segments > 1:
            end = point(inputs, baselines, 1 / self.segments)
        with torch.enable_grad():
            run.f_baseline = select_again(run.against(end), run.index)
            value = run.value if run.row is None else run.value[run.row]
            found = multipliers(value, inputs, run.again)
            if self.segments > 1:
                line = inputs, baselines
                found = averaged_over(self.segments, run, self.table, *line, found)
        return found


def _known(
    values: tuple[Tensor, ...], places: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Values with 0 where they are missing."""
    return tuple(where_known(x.detach(), 0.0, p) for x, p in zip(values, places))


@cache
def _table_of(rules: tuple[tuple[Any, Rule], ...]) -> Table:
    """The rules that are the same for all explainers, in one table of a thousand."""
    return with_rules(dict(rules))


def _row(parts: Sequence[Tensor], row: int) -> tuple[Any, ...]:
    """One patient of each tensor, as a tuple."""
    return tuple(part[row : row + 1] for part in parts)
