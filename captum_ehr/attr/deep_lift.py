"""DeepLiftEHR: Captum's DeepLift with exact multipliers, on any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from captum.log import log_usage
from torch import Tensor, nn

from ..adapter import Baseline, FeatureRecord, PyHealthAdapter
from ..adapter.fast_stagenet import hasten
from ..explanation import Explanation
from ..explanation.labels import Grouping
from ..explanation.words import cancellation
from ..propagation import AuditTape, two_passes
from .auditing import audited
from .engine import Engine
from .fingerprint import fingerprint
from .inputs import Prepared, in_form
from .remarks import outside
from .result import Result
from .targets import Target, select, select_again

if TYPE_CHECKING:
    import pandas as pd


class DeepLiftEHR(Engine):
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
        attribute_time: Also attribute to the times of features that have some
            (StageNet's), under ``"<feature key>.time"``, adding up with the rest.
        rules: From torch function or ``nn.Module`` type to a rule of your own, for
            this explainer alone; see :func:`captum_ehr.propagation.elementwise`.
        mixing: For models whose patients influence each other within a batch:
            ``"apart"`` explains each with the others held fixed, at the price of a
            run per patient; ``"together"`` gives each one's part in all of the
            batch's scores, which add up over the batch alone.
        internal_batch_size: Explain so many patients at a time, to bound memory.
        segments: Take the line from reference to input in so many pieces, each exact.
            More come nearer to Integrated Gradients' limit, at as many times the
            price; see :mod:`captum_ehr.attr.segments`.

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
        prepared, result = self.run(
            inputs,
            baselines,
            target,
            additional_forward_args,
            custom_attribution_func,
            tokens=self.sum_tokens,
        )
        shaped = in_form(prepared, result.attributions, self.model, self.sum_tokens)
        return (shaped, result.balance.delta) if return_convergence_delta else shaped

    def explain(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        names: Grouping | None = None,
    ) -> Explanation:
        """Attributions with all that it takes to read them.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            names: Human names of codes; see :meth:`Explanation.with_names`.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If the explainer returns multipliers.
        """
        if not self.multiplies_by_inputs:
            raise ValueError(
                "explain needs multiply_by_inputs=True: multipliers have no sum."
            )
        prepared, result = self.run(batch, baselines, target, None, None, tokens=True)
        words = baselines if isinstance(baselines, str) else "given"
        if len(prepared.references) > 1:
            words = f"{len(prepared.references)} reference patients"
        explanation = self._explanation(prepared, result, words)
        return explanation if names is None else explanation.with_names(names)

    def audit(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> pd.DataFrame:
        """The account of an explanation, operation by operation.

        Where attributions do not add up, the operations that lose the difference come
        first. Takes what :meth:`attribute` takes, the whole batch in one run and the
        line from the reference in one segment.

        Returns:
            A frame with a row per operation, module and rule, the largest residual
            first: ``operation``, ``module`` (its path, ``""`` for the model itself),
            ``calls``, ``rule``, ``exact``, ``share`` (how much of ``Σ|f(x) - f(x0)|``
            over the patients flows through the output of these calls: operations in a
            row each carry it again, those side by side divide it and may cancel) and
            ``residual`` (how much of it they lose: Σ over the calls of
            ``|Σ m·Δin - Δout|``). The last two rows are what came past every rule,
            linear operations where all is well, and the whole explanation.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> account = DeepLiftEHR(model).audit(batch)
            >>> bool(account["residual"].max() < 1e-5)
            True
        """
        with torch.inference_mode(False):
            own = self.prepare(inputs, baselines, additional_forward_args).fresh()
            tape = AuditTape(self.table)

            def follow(view: nn.Module) -> None:
                hasten(view)  # the account is of what is explained
                tape.follow(view)

            forward, labels = self.forward_view(follow)
            sides = two_passes(
                forward, own.inputs, own.references[0], own.args, tape=tape
            )
            value, index = select(sides.output, target, labels)
            reference = select_again(sides.reference_output, index)
            return audited(sides, tape, value, reference, own.inputs, own.references[0])

    def _explanation(
        self,
        prepared: Prepared,
        result: Result,
        baseline: str,
    ) -> Explanation:
        """A result with the batch that it belongs to."""
        if prepared.encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError(
                "explain takes a batch; use attribute for tensors and pairs."
            )
        adapter, encoded = self.model, prepared.encoded
        sums = [_token_sum(a, m) for a, m in zip(result.attributions, encoded.masks)]
        answered = torch.isfinite(result.f_input - result.f_baseline)
        change = (result.f_input - result.f_baseline)[answered]
        report = replace(
            result.diagnostics,
            cancellation=max(
                cancellation((a[answered] for a in sums), change).tolist(), default=0.0
            ),
        )
        if len(prepared.references) == 1:
            notes = outside(adapter, encoded, prepared.references[0])
            report = replace(report, notes=(*report.notes, *notes))
        return Explanation(
            attributions=dict(zip(encoded.feature_keys, sums)),
            features={
                key: _attributed(record, a, answered)
                for (key, record), a in zip(encoded.features.items(), sums)
            },
            f_input=result.f_input,
            f_baseline=result.f_baseline,
            delta=result.balance.delta,
            rescale_factor=result.factor,
            target=tuple(i[0] if len(i) == 1 else i for i in result.index),
            diagnostics=report,
            patient_ids=encoded.patient_ids,
            model_name=type(adapter.model).__name__,
            output=self.output,
            target_names=adapter.target_names,
            baseline=baseline,
            mode=adapter.mode,
            fingerprint=fingerprint(adapter.model),
        )


def _attributed(
    record: FeatureRecord, attribution: Tensor, answered: Tensor
) -> FeatureRecord:
    """A feature with all that has an attribution unmasked, so that rows add up.

    Absent categories and padding have none, but where a given reference changes them.
    Where the model has no answer nothing adds up, and padding stays padding.
    """
    known = answered.view(-1, *[1] * (attribution.dim() - 1))
    extra = (attribution != 0) & ~record.mask & known
    return replace(record, mask=record.mask | extra) if bool(extra.any()) else record


def _token_sum(attribution: Tensor, mask: Tensor) -> Tensor:
    return attribution.sum(-1) if attribution.dim() > mask.dim() else attribution
