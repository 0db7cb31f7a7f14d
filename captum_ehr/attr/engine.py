"""Captum's DeepLift on the multipliers of the calculus."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from captum.attr import DeepLift
from captum.attr._utils.common import _call_custom_attribution_func
from torch import Tensor, nn

from ..adapter import PyHealthAdapter, module_rules
from ..adapter.fast_stagenet import use_fast_forward
from ..propagation import (
    Diagnostics,
    Rule,
    Tape,
    module_types,
    recorded,
    viewed,
    with_rules,
)
from ..propagation.explain import settled
from ..propagation.missing import nan_without_answer
from ..propagation.plans import Plans, PlanState
from ..propagation.registry import Table
from .classes import ALL
from .completeness import (
    APART,
    MIXED,
    AttributionWarning,
    Completeness,
    CompletenessError,
    balance,
    mixes,
    noted,
    told,
)
from .contributions import Parts, absolute_sums, known, times_change
from .inputs import Prepared, check_options, explained, prepare
from .outputs import per_patient_output, rounded_at, scored, select_again
from .planned import planned, uncompiled
from .result import Result, averaged, joined, joined_outputs
from .segments import Run, multipliers_along, once
from .slicing import sliced
from .stacking import how_many, in_stacks
from .targets import (
    Chosen,
    Target,
    asked_of,
    labels_of,
    part_of,
    selected,
)


class View(NamedTuple):
    """A model's forward on a private view, its labels, and what runs faster in it."""

    forward: Callable[..., Any]
    labels: Mapping[Any, int]
    rewrites: tuple[str, ...]


class Engine(DeepLift):
    """What the explainers share: two passes in place of hooks, and the account.

    Of Captum's ``DeepLift`` these are the arguments, what stands in place of its hooks
    and gradients is the calculus, and custom attribution functions are called by
    Captum's own helper. :class:`captum_ehr.DeepLiftEHR` documents the options.
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
        compile: bool = False,
    ) -> None:
        check_options(
            output, completeness, mixing, internal_batch_size, segments, rules
        )
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
        self.compile = compile
        self._plans = Plans()

    def _tabulate(self) -> None:
        """Look up the table of rules: the model's, and the user's on top."""
        rules = module_rules() if isinstance(self.model, PyHealthAdapter) else {}
        self.table = with_rules(self.rules, _table_of(tuple(rules.items())))
        self.types = module_types({**rules, **self.rules})

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

    def forward_view(self, look: Callable[[nn.Module], object] | None = None) -> View:
        """The model's forward, whose output is one tensor with the patients first.

        ``look`` is called with the view of the model before it runs.
        """
        view = self.model_view(look)
        adapted = isinstance(self.model, PyHealthAdapter)
        kind = type(self.model.model if adapted else self.model)
        forward = per_patient_output(view.forward, kind.__name__)
        return view._replace(forward=forward)

    def model_view(self, look: Callable[[nn.Module], object] | None = None) -> View:
        """The same, whatever the model returns."""
        rewrites: list[str] = []

        def private(model: nn.Module) -> Any:
            seen = viewed(model, self.table, self.types)
            if look is not None:
                look(seen)
            rewrites.extend(use_fast_forward(seen))
            return seen

        if isinstance(self.model, PyHealthAdapter):
            adapter = self.model.private(private)
            # Not called as a module: hooks for all modules are for the model's.
            forward = scored(self.model, adapter.forward, self.output)
            return View(forward, labels_of(self.model), tuple(rewrites))
        return View(private(self.model), {}, tuple(rewrites))

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

        Takes what :meth:`captum_ehr.DeepLiftEHR.attribute` takes; ``each`` keeps the
        attributions of every reference, with ``tokens`` those of embeddings are summed.
        Of every output the result has all patients, one output after the other.
        """
        grad = torch.is_grad_enabled()  # so also where a fault hits what sets it back
        with torch.set_grad_enabled(grad), torch.inference_mode(False):
            prepared = self.prepare(inputs, baselines, args)
            if tokens and custom is None and self.multiplies_by_inputs:
                prepared = prepared.in_sums(self.model)
            size = prepared.inputs[0].shape[0]
            step = self.internal_batch_size or size
            targets = asked_of(target, size, labels_of(self.model))
            parts = [
                (piece, self._unmixed(piece, part_of(targets, k, step), custom, each))
                for k, piece in sliced(prepared, step, self._output)
            ]
            result = joined_outputs(parts)
        looked_after = custom is None and self.multiplies_by_inputs
        mode = self.completeness if looked_after else "off"
        if mode == "raise" and bool(result.balance.off.any()):
            raise CompletenessError(" ".join(result.diagnostics.messages))
        if mode == "rescale":
            result = result.rescaled()
        for message in result.diagnostics.messages:
            warnings.warn(message, AttributionWarning, stacklevel=4)
        return prepared, result

    def _output(self, prepared: Prepared) -> Tensor:
        """The model's output, without any explanation."""
        with torch.no_grad():
            inputs = (x.detach().clone() for x in prepared.inputs)
            output: Tensor = self.forward_view().forward(*inputs, *prepared.args)
            return output

    def _unmixed(
        self, prepared: Prepared, target: Any, custom: Any, each: bool
    ) -> Result:
        """A slice of patients, one after the other if the model mixes them.

        In a model whose patients influence each other (a recurrence over the batch,
        clusters) the sums are right for the slice and wrong for its patients.
        """
        together = self._together(prepared, target, custom, each)
        if custom is not None or not mixes(together.balance):
            return together
        if self.mixing == "together":
            return replace(together, diagnostics=noted(together.diagnostics, MIXED))
        chosen = target if target == ALL else Chosen(together.index)
        apart = self._slice(prepared, chosen, custom, each, apart=True)
        apart = uncompiled(apart, "it mixes patients", self.compile)
        return replace(
            apart, diagnostics=Diagnostics(messages=(APART,)) + apart.diagnostics
        )

    def _together(
        self, prepared: Prepared, target: Any, custom: Any, each: bool
    ) -> Result:
        """A slice, against several references at a time where that is the same."""
        if custom is None and not each and len(prepared.references) == 1:
            return self._single(prepared, target)
        most = how_many(self.model, prepared, self.internal_batch_size)
        if custom is None and self.segments == 1 and most and target != ALL:
            single, output = self._single, self._output
            result = in_stacks(prepared, target, most, each, single, output)
            if result is not None:
                sides = result.f_input, result.f_baseline
                checked = self.completeness != "off"
                bare, tensor = result.diagnostics, result.f_input
                report = told(bare, result.balance, *sides, tensor, checked)
                return replace(result, diagnostics=report)
        why = "several references, or a function of your own, take the passes"
        result = self._slice(prepared, target, custom, each)
        return uncompiled(result, why, self.compile)

    def _single(self, prepared: Prepared, target: Any) -> Result:
        """A slice against one reference, by its plan if there is one."""
        if any(not getattr(rule, "pure", False) for rule in self.rules.values()):
            why = (
                "there are rules of your own; captum_ehr.propagation.pure says of one "
                "that it computes from its arguments alone"
            )
            self._plans.refuse(why)
            result = self._slice(prepared, target, None, False)
            return uncompiled(result, why, self.compile)
        scale = self.output, self.multiplies_by_inputs
        options = *scale, self.segments, self.completeness == "off"
        passes = partial(self._slice, custom=None, each=False)
        slice = options, prepared, target
        return planned(self._plans, self.model, *slice, passes, self.compile)

    @property
    def plans(self) -> tuple[PlanState, ...]:
        """What has become of the plans: a state per shapes of batches, and why.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> dl = DeepLiftEHR(model)
            >>> for _ in range(3):
            ...     _ = dl.attribute(batch)
            >>> [(plan.state, plan.replays) for plan in dl.plans]
            [('ready', 1)]
        """
        return self._plans.states()

    def _slice(
        self,
        prepared: Prepared,
        target: Any,
        custom: Any,
        each: bool,
        apart: bool = False,
    ) -> Result:
        """A slice: one input pass for all references, outputs, and patients if apart.

        Each further segment has input passes of its own.
        """
        fresh = prepared.fresh()
        view = self.forward_view()
        rows = range(fresh.inputs[0].shape[0]) if apart else (None,)
        again = len(fresh.references) * len(rows) > 1 or target == ALL
        tape = Tape(self.table, lasting=again, seeks_missing=False)
        record = partial(recorded, view.forward, args=fresh.args)
        checked = custom is None and self.completeness != "off"

        def attempt() -> Result | None:
            with recorded(view.forward, fresh.inputs, fresh.args, tape) as passes:
                output, against = passes
                run = partial(Run, output.detach(), record=record, again=again)
                run = partial(run, against=once(against), tape=tape)
                runs = [run(*found) for found in selected(output, target, view.labels)]
                table = [self._averaged(fresh, runs, r, custom, each) for r in rows]
                results = [joined(list(column)) for column in zip(*table)]
                result = joined(results)
                report = result.diagnostics + tape.diagnostics()
            if not tape.seeks_missing and not result.finite:
                tape.seeks_missing = True
                return None
            for k, one in enumerate(results):
                of = f", of output {k}" if len(results) > 1 else ""
                outputs = one.f_input, one.f_baseline, output
                report = told(report, one.balance, *outputs, checked, of)
            report += Diagnostics(rewrites=view.rewrites)
            drawn = bool(tape.drawn_from) or tape.draws_globals
            shape = tuple(output.shape[1:])
            return replace(result, diagnostics=report, drawn=drawn, shape=shape)

        result = settled(tape, attempt) or settled(tape, attempt)
        assert result is not None
        return result

    def row_results(self, rows: Prepared, chosen: Chosen) -> Result:
        """The explanation of rows, of which nothing is said yet."""
        result = self._slice(rows, chosen, None, False)
        return result.rescaled() if self.completeness == "rescale" else result

    def _rounded_at(self, index: Tensor, *outputs: Tensor) -> Tensor | None:
        return rounded_at(self.model, self.output, index, *outputs)

    def _averaged(
        self,
        prepared: Prepared,
        runs: list[Run],
        row: int | None,
        custom: Any,
        each: bool,
    ) -> list[Result]:
        """The mean over the references: of a batch, or of one patient in it."""
        runs = [replace(run, row=row) for run in runs]
        references = (prepared if row is None else prepared.but(row)).references
        table = [
            [self._against(prepared, run, b, custom) for run in runs]
            for b in references
        ]
        return [averaged(list(column), each) for column in zip(*table)]

    def _against(
        self, prepared: Prepared, run: Run, baselines: Parts, custom: Any
    ) -> Result:
        """The attributions against one reference."""
        multipliers, at_baseline, report = multipliers_along(
            run, prepared.inputs, baselines, self.segments
        )
        sides = multipliers, prepared.inputs, baselines
        with torch.no_grad():
            if run.tape.seeks_missing:
                sides = known(*sides)
            if custom is not None:
                attributions = _call_custom_attribution_func(custom, *sides)
                measured = attributions
            elif self.multiplies_by_inputs:
                attributions = measured = times_change(*sides, prepared.summed)
            else:
                attributions, measured = sides[0], times_change(*sides)
            index, f_input, output = run.index, run.value.detach(), run.output
            if run.row is not None:
                row = slice(run.row, run.row + 1)
                index, f_input = index[row], f_input[row]
                output, at_baseline = output[row], at_baseline[row]
                attributions, measured = _rows(attributions, row), _rows(measured, row)
                sides = _rows(sides[0], row), _rows(sides[1], row), _rows(sides[2], row)
            f_baseline = select_again(at_baseline, index)
            # of what was not summed yet, if it is asked for at all
            gross = absolute_sums if prepared.summed else None
            parts = tuple(chain(*sides)) if gross else ()
            size = self._rounded_at(index, output, at_baseline)
            sums = balance(measured, f_input, f_baseline, gross, size, parts)
        detached = tuple(a.detach() for a in attributions)
        answered = nan_without_answer(detached, f_input, f_baseline)
        return Result(answered, f_input, f_baseline, index, sums, report)


@cache
def _table_of(rules: tuple[tuple[Any, Rule], ...]) -> Table:
    """The rules that are the same for all explainers, in one table of a thousand."""
    return with_rules(dict(rules))


def _rows(parts: Parts, rows: slice) -> Parts:
    """Some patients of each tensor."""
    return tuple(part[rows] for part in parts)
