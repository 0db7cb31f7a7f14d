"""DeepLiftEHR: Captum's DeepLift with exact multipliers, on any model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from captum.attr import DeepLift
from captum.log import log_usage
from torch import Tensor, nn

from ..adapter import Baseline, PyHealthAdapter, is_pyhealth_model, module_rules
from ..explanation import Explanation
from ..propagation import Rule, multipliers, two_passes, viewed, with_rules
from .captums import CAPTUM_ATTRIBUTE
from .completeness import (
    CHOICES,
    AttributionWarning,
    Completeness,
    CompletenessError,
    balance,
    mixes,
)
from .diagnosis import APART, MIXED, account, noted
from .forms import Prepared, prepare
from .result import Result, Run, joined
from .targets import Target, per_patient, select


class DeepLiftEHR(DeepLift):
    r"""DeepLIFT for electronic health records, exact for every operation.

    Captum's ``DeepLift.attribute`` runs; the multipliers come from
    :mod:`captum_ehr.propagation`, so modules used twice, functional calls, gates,
    attention, normalisation and recurrent layers are all exact: the attributions add
    up to f(x) - f(x0) before any rescaling. The model is not touched: it is explained
    in eval mode on a private view of its modules.

    (Shrikumar et al., Learning Important Features Through Propagating Activation
    Differences, 2017: Rescale rule; Aumann & Shapley, 1974, for products.)

    Args:
        model: A PyHealth model, a :class:`PyHealthAdapter`, or any ``nn.Module``,
            which is then taken as it is.
        multiply_by_inputs: As in Captum: False returns multipliers.
        eps: As in Captum; nothing here needs it.
        sum_tokens: Sum attributions over the embedding dimension, for batches and
            (embedding, mask) pairs. Tensors and tuples keep the inputs' shapes.
        completeness: The raw residual is always measured first. ``"rescale"`` then
            polishes rounding away, and like ``"check"`` warns, naming the operations,
            where it is more than rounding (which is never rescaled); ``"raise"``
            raises there; ``"off"`` does nothing.
        output: ``"logit"``, or ``"probability"`` to explain the probability.
        rules: From torch function or ``nn.Module`` type to a rule of your own, for
            this explainer alone; see :func:`captum_ehr.propagation.elementwise`.
        mixing: For models whose patients influence each other within a batch:
            ``"apart"`` explains each with the others held fixed, at the price of a
            run per patient; ``"together"`` gives each one's part in all of the
            batch's scores, which add up over the batch alone.
        internal_batch_size: Explain so many patients at a time, to bound memory.

    Raises:
        TypeError: If the model is no ``nn.Module``, or a rule not callable.
        ValueError: If an option is unknown, or ``output="probability"`` is asked of a
            model that is not PyHealth's.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> dl = DeepLiftEHR(model)
        >>> attributions, delta = dl.attribute(batch, return_convergence_delta=True)
        >>> attributions["conditions"].shape == batch["conditions"].shape
        True
        >>> bool(delta.abs().max() < 1e-5)
        True
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
        rules: Mapping[Any, Rule] | None = None,
        mixing: Literal["apart", "together"] = "apart",
        internal_batch_size: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Expected a PyHealth model, a PyHealthAdapter or another nn.Module, "
                f"got {type(model).__name__}."
            )
        if is_pyhealth_model(model):
            model = PyHealthAdapter(model)
        if completeness not in CHOICES:
            raise ValueError(f"completeness={completeness!r}; it is one of {CHOICES}.")
        if output not in ("logit", "probability"):
            raise ValueError(f"output={output!r}; it is 'logit' or 'probability'.")
        if output == "probability" and not isinstance(model, PyHealthAdapter):
            raise ValueError(
                "output='probability' needs a PyHealth model, whose mode says how its "
                "logit becomes one; put the sigmoid or softmax into your module."
            )
        if mixing not in ("apart", "together"):
            raise ValueError(f"mixing={mixing!r}; it is 'apart' or 'together'.")
        if internal_batch_size is not None and internal_batch_size < 1:
            raise ValueError(f"internal_batch_size={internal_batch_size}; at least 1.")
        super().__init__(model, multiply_by_inputs=multiply_by_inputs, eps=eps)
        self.sum_tokens = sum_tokens
        self.completeness = completeness
        self.output = output
        own = module_rules() if isinstance(model, PyHealthAdapter) else {}
        self.table = with_rules({**own, **(rules or {})})
        self.mixing = mixing
        self.internal_batch_size = internal_batch_size
        self.gradient_func = self._multipliers
        self._run: Run | None = None

    # Captum's interface --------------------------------------------------------------

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> Any:
        """Attributions of the target output to the inputs.

        Args:
            inputs: A tensor or tuple of tensors, as for Captum; (embedding, mask)
                pairs; an :class:`EncodedBatch`; or a batch of PyHealth's data loader.
            baselines: For batches and pairs what :meth:`PyHealthAdapter.baseline`
                takes, ``"unk"`` by default; for tensors what Captum takes, 0 by
                default.
            target: None for the predicted class of each patient; an index; a label of
                the dataset; a tuple for outputs of more dimensions; or a list or
                tensor with one per patient. A one-logit binary model has one output,
                the positive label's: None, 0, or that label.
            additional_forward_args: As for Captum; batches and ``enc.pairs`` bring
                their own.
            return_convergence_delta: Also return ``(batch,)`` raw residuals, Σ
                attributions - (f(x) - f(x0)), before any rescaling.
            custom_attribution_func: As for Captum: from multipliers, inputs and
                baselines to attributions. Completeness is then not looked after.

        Returns:
            Attributions in the form of the inputs: shaped like them for tensors and
            tuples; for a batch a dict per feature key, shaped like the token ids or
            raw values; for pairs a tuple, likewise.

        Raises:
            CompletenessError: If they do not add up and ``completeness="raise"``.
            DivergenceError: If the model takes another path on the reference.
        """
        prepared, result = self._explained(
            inputs, baselines, target, additional_forward_args, custom_attribution_func
        )
        shaped = self._in_form(prepared, result)
        return (shaped, result.balance.delta) if return_convergence_delta else shaped

    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        names: Mapping[str, str] | None = None,
    ) -> Explanation:
        """Attributions with all that it takes to read them.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            names: Human names of codes.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If the explainer returns multipliers.
        """
        if not self.multiplies_by_inputs:
            raise ValueError(
                "explain needs multiply_by_inputs=True: multipliers have no sum."
            )
        prepared, result = self._explained(batch, baselines, target, None, None)
        if prepared.encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError(
                "explain takes a batch; use attribute for tensors and pairs."
            )
        adapter, encoded = self.model, prepared.encoded
        sums = [_token_sum(a, m) for a, m in zip(result.attributions, encoded.masks)]
        return Explanation(
            attributions=dict(zip(encoded.feature_keys, sums)),
            features=dict(encoded.features),
            f_input=result.f_input,
            f_baseline=result.f_baseline,
            delta=result.balance.delta,
            rescale_factor=result.factor,
            target=tuple(i[0] if len(i) == 1 else i for i in result.index),
            diagnostics=result.diagnostics,
            patient_ids=encoded.patient_ids,
            model_name=type(adapter.model).__name__,
            output=self.output,
            target_names=adapter.target_names,
            baseline=baselines if isinstance(baselines, str) else "given",
            names=dict(names or {}),
        )

    # One batch -----------------------------------------------------------------------

    def _explained(
        self, inputs: Any, baselines: Any, target: Target, args: Any, custom: Any
    ) -> tuple[Prepared, Result]:
        """Prepare, run in slices, measure completeness, and say what is not exact."""
        with torch.inference_mode(False):
            prepared = prepare(self.model, inputs, baselines, args)
            size = prepared.inputs[0].shape[0]
            step = self.internal_batch_size or size
            targets = None if target is None else per_patient(target, size)
            slices = [slice(start, start + step) for start in range(0, size, step)]
            parts = [
                self._unmixed(prepared.rows(part), targets and targets[part], custom)
                for part in slices
            ]
            result = joined(parts)
        looked_after = custom is None and self.multiplies_by_inputs
        mode = self.completeness if looked_after else "off"
        if mode == "raise" and bool(result.balance.off.any()):
            raise CompletenessError(" ".join(result.diagnostics.messages))
        if mode == "rescale":
            factor = result.balance.factor
            scaled = tuple(
                a * factor.view(-1, *[1] * (a.dim() - 1)).to(a.dtype)
                for a in result.attributions
            )
            result = replace(result, attributions=scaled, factor=factor)
        for message in result.diagnostics.messages:
            warnings.warn(message, AttributionWarning, stacklevel=5)
        return prepared, result

    def _unmixed(self, prepared: Prepared, target: Any, custom: Any) -> Result:
        """A slice of patients, one after the other if the model mixes them.

        In a model whose patients influence each other (a recurrence over the batch,
        clusters) the sums are right for the slice and wrong for its patients.
        """
        together = self._slice(prepared, target, custom)
        found = together.balance
        if custom is not None or not mixes(found, together.attributions):
            return together
        if self.mixing == "together":
            return replace(together, diagnostics=noted(together.diagnostics, MIXED))
        rows = [
            self._slice(prepared.but(row), together.index, custom, row)
            for row in range(len(together.index))
        ]
        apart = joined(rows)
        return replace(apart, diagnostics=noted(apart.diagnostics, APART))

    def _slice(
        self, prepared: Prepared, target: Any, custom: Any, row: int | None = None
    ) -> Result:
        """Captum's own attribute on one slice of patients, or for one row of it."""
        engine = copy.copy(self)  # its run is its own, also beside other threads
        engine.gradient_func = engine._multipliers
        run = engine._run = Run()
        engine._target, engine._row = target, row
        own = prepared.fresh()
        attributions = CAPTUM_ATTRIBUTE(
            engine, own.inputs, own.baselines, None, own.args or None, False, custom
        )
        with torch.no_grad():
            change = run.f_input - run.f_baseline
            measured = attributions
            if custom is None and not self.multiplies_by_inputs:
                measured = tuple(
                    m * (x - b)
                    for m, x, b in zip(run.multipliers, own.inputs, own.baselines)
                )
            kept = slice(None) if row is None else slice(row, row + 1)
            found = balance(tuple(m[kept] for m in measured), change[kept])
        assert run.sides is not None
        sides = run.f_input[kept], run.f_baseline[kept]
        checked = custom is None and self.completeness != "off"
        return Result(
            tuple(a.detach()[kept] for a in attributions),
            *sides,
            run.index[kept],
            found,
            torch.ones_like(found.factor),
            account(run.sides, found, *sides, checked),
        )

    def _in_form(self, prepared: Prepared, result: Result) -> Any:
        """The attributions in the form in which the inputs came."""
        parts = result.attributions
        if prepared.form == "tensor":
            return parts[0]
        if prepared.form == "tuple":
            return parts
        if self.sum_tokens and isinstance(self.model, PyHealthAdapter):
            parts = tuple(
                a.sum(-1) if feature.embedding else a
                for a, feature in zip(parts, self.model.features)
            )
        if prepared.encoded is not None:
            return dict(zip(prepared.encoded.feature_keys, parts))
        return parts

    # What Captum's attribute calls ---------------------------------------------------

    def _construct_forward_func(
        self, forward_func: Any, inputs: Any, target: Any = None, args: Any = None
    ) -> Callable[[], Tensor]:
        """The two passes, and of their output the explained value of each patient."""
        run = self._run
        assert run is not None
        forward = self._viewed_model()
        labels = forward.labels if isinstance(forward, PyHealthAdapter) else {}

        def forward_fn() -> Tensor:
            sides = two_passes(
                self._scored(forward), inputs[0], inputs[1], args or (), self.table
            )
            value, run.index = select(sides.output, self._target, labels)
            at = run.index if sides.output.dim() > 1 else None
            run.f_baseline, _ = select(sides.reference_output, at, labels)
            run.sides, run.f_input = sides, value.detach()
            return value

        return forward_fn

    def _viewed_model(self) -> Any:
        if isinstance(self.model, PyHealthAdapter):
            return self.model.private(lambda model: viewed(model, self.table))
        return viewed(self.model, self.table)

    def _scored(self, forward: Any) -> Callable[..., Tensor]:
        """The forward, with the logit's probability where that is explained."""
        if self.output == "logit":
            return forward
        mode = self.model.mode

        def probability(*args: Any) -> Tensor:
            logit = forward(*args)
            if mode == "multiclass":
                return torch.softmax(logit, dim=-1)
            return logit if mode == "regression" else torch.sigmoid(logit)

        return probability

    def _multipliers(
        self, forward_fn: Callable[[], Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Captum's gradient_func: the chain rule, into the inputs and nothing else."""
        with torch.enable_grad():
            value = forward_fn()
            value = value if self._row is None else value[self._row]
            found = multipliers(value, inputs)
        assert self._run is not None
        self._run.multipliers = found
        return found

    def _hook_main_model(self) -> list[Any]:
        return []

    def _register_hooks(self, module: nn.Module, **_: Any) -> None:
        return None

    _target: Any = None
    _row: int | None = None


def _token_sum(attribution: Tensor, mask: Tensor) -> Tensor:
    return attribution.sum(-1) if attribution.dim() > mask.dim() else attribution
