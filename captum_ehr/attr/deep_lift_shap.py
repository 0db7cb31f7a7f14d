"""DeepLiftShapEHR: against a distribution of reference patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from numbers import Integral
from typing import Any

import pandas as pd
from captum.attr import DeepLiftShap
from captum.log import log_usage
from torch import Tensor

from ..adapter import (
    EncodedBatch,
    PyHealthAdapter,
    check_dataset,
    reference_patients,
)
from ..explanation import Explanation
from ..explanation.labels import Grouping
from .classes import is_all
from .deep_lift import DeepLiftEHR
from .inputs import Prepared, in_form, prepare
from .targets import Target, asked


class DeepLiftShapEHR(DeepLiftEHR, DeepLiftShap):
    r"""The mean of :class:`DeepLiftEHR` over a distribution of references.

    .. math:: \mathbb{E}_{x_0}\left[m(x, x_0)\,(x - x_0)\right]

    adds up to :math:`f(x) - \mathbb{E}_{x_0} f(x_0)`. All references share one input
    pass, or small batches go through the model against several references at a time,
    where that gives the same. Takes the options of :class:`DeepLiftEHR`.

    A reference patient's codes and values stand at the explained patient's positions,
    for which positions there are belongs to the explained patient: where the
    reference has fewer there is nothing (the zero embedding, 0), and what it has
    beyond is left out.

    (Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, 2017,
    section 4.2, with the multipliers of this package.)

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> from captum_ehr import reference_patients
        >>> model, batch = tiny_model()
        >>> dl = DeepLiftShapEHR(model)
        >>> exp = dl.explain(batch, reference_patients(model.dataset, 4))
        >>> bool((exp.total - (exp.f_input - exp.f_baseline)).abs().max() < 1e-5)
        True
    """

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        baselines: Any,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Callable[..., tuple[Tensor, ...]] | None = None,
        *,
        per_reference: bool = False,
    ) -> Any:
        """Attributions of the target output to the inputs, averaged over references.

        Args:
            inputs: See :meth:`DeepLiftEHR.attribute`.
            baselines: For tensors and tuples of them, as in Captum: tensors with the
                references as dimension 0, else like the inputs, or a function of the
                inputs, or of nothing, that returns these. For batches also a batch of
                reference patients, a PyHealth dataset (all of its patients), or how
                many patients of the model's own dataset to draw; of another one:
                :func:`captum_ehr.reference_patients`.
            target: See :meth:`DeepLiftEHR.attribute`.
            additional_forward_args: As for Captum.
            return_convergence_delta: Also return ``(batch · references,)`` raw
                residuals, the references of the first patient first, as in Captum.
            custom_attribution_func: As for Captum, once per reference.
            per_reference: Return the attributions to every reference, with the
                references as dimension 1, in place of their mean.

        Raises:
            ValueError: If there are fewer than two references, or their shapes do not
                fit.
        """
        prepared, result = self.run(
            inputs,
            baselines,
            target,
            additional_forward_args,
            custom_attribution_func,
            per_reference,
            self.sum_tokens,
        )
        outputs = result.outputs_of(prepared)
        parts = [one.each if per_reference else one.attributions for one in outputs]
        shaped = asked(
            target, [in_form(prepared, p, self.model, self.sum_tokens) for p in parts]
        )
        delta = asked(target, [one.deltas.flatten() for one in outputs])
        return (shaped, delta) if return_convergence_delta else shaped

    def explain(  # type: ignore[override]
        self,
        batch: Any,
        baselines: Any,
        target: Target = None,
        names: Grouping | None = None,
    ) -> Explanation:
        """The mean over the references, with all that it takes to read it.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`attribute`.
            target: See :meth:`attribute`.
            names: Human names of codes; see :meth:`Explanation.with_names`.

        Returns:
            An explanation whose ``f_baseline`` and ``delta`` are means as well.
        """
        return super().explain(batch, baselines, target, names)

    def spread(
        self,
        batch: Any,
        baselines: Any,
        target: Target = None,
        names: Grouping | None = None,
    ) -> pd.DataFrame:
        """The rows of :meth:`explain`, and how far each goes between references.

        All attributions to every reference are in memory: ``patients * references``
        numbers for each token or value.

        Args:
            batch: See :meth:`explain`.
            baselines: See :meth:`attribute`.
            target: See :meth:`attribute`; one output at a time.
            names: Human names of codes; see :meth:`Explanation.with_names`.

        Returns:
            The frame of :meth:`Explanation.to_frame`, whose ``attribution`` is the mean
            over the references, with ``spread_over_references``: the standard
            deviation (n - 1) of the attributions to each of them. It says how much it
            matters whom a patient is compared with. It does not fall with the number
            of references, so it is no standard error of the mean, and says nothing of
            how sure the model is.

        Raises:
            ValueError: If every output is asked for, or as :meth:`attribute`.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> from captum_ehr import reference_patients
            >>> model, batch = tiny_model()
            >>> references = reference_patients(model.dataset, 4)
            >>> table = DeepLiftShapEHR(model).spread(batch, references)
            >>> list(table)[-2:]
            ['attribution', 'spread_over_references']
        """
        if is_all(target):
            raise ValueError("spread is of one output at a time, not of 'all'.")
        pairs = self._explained(batch, baselines, target, names, per_reference=True)
        explanation, result = pairs[0]
        keys = explanation.attributions
        widths = {key: part.std(1) for key, part in zip(keys, result.each)}
        frame = explanation.to_frame()
        rows = replace(explanation, attributions=widths).to_frame()
        return frame.assign(spread_over_references=rows["attribution"])

    def prepare(self, inputs: Any, baselines: Any, args: Any) -> Prepared:
        """Inputs, and one set of references for each reference."""
        whole = prepare(self.model, inputs, None, args)
        if callable(baselines) and not isinstance(baselines, Mapping):
            takes = signature(baselines).parameters  # Captum's may take none
            baselines = baselines(inputs) if takes else baselines()
        references = self._patients(whole, baselines)
        if references is None:
            references = _rows(whole.inputs, baselines)
        if len(references) < 2:
            raise ValueError(
                f"DeepLiftShapEHR averages over several references, got "
                f"{len(references)}; against a single one use DeepLiftEHR."
            )
        return whole.against(references)

    def _patients(
        self, whole: Prepared, baselines: Any
    ) -> tuple[tuple[Tensor, ...], ...] | None:
        """References given as patients; None if they are tensors."""
        encoded = whole.encoded
        if isinstance(baselines, (Tensor, tuple, list)):
            return None
        if encoded is None or not isinstance(self.model, PyHealthAdapter):
            raise TypeError(
                "baselines: expected tensors with the references as dimension 0, got "
                f"{type(baselines).__name__}; reference patients need a batch to be "
                "explained, and a PyHealth model."
            )
        baselines = patients_of(self.model, baselines)
        if not isinstance(baselines, (Mapping, EncodedBatch)):
            raise TypeError(
                "baselines: expected reference patients (a batch, a dataset or how "
                f"many), or tensors, got {type(baselines).__name__}."
            )
        return self.model.patient_baselines(encoded, baselines)


def patients_of(model: PyHealthAdapter, baselines: Any) -> Any:
    """Reference patients as a batch, where a dataset or their number is given."""
    if isinstance(baselines, Integral):
        return reference_patients(model.model.dataset, int(baselines))
    if hasattr(baselines, "input_processors"):
        check_dataset(model.features, model.model, baselines)
        return reference_patients(baselines, len(baselines))
    return baselines


def _rows(inputs: tuple[Tensor, ...], baselines: Any) -> tuple[tuple[Tensor, ...], ...]:
    """Tensors of references, one set for each of their rows."""
    parts = baselines if isinstance(baselines, (tuple, list)) else (baselines,)
    if len(parts) != len(inputs):
        raise ValueError(f"{len(parts)} baseline(s) for {len(inputs)} input(s).")
    counts = {len(part) for part in parts if isinstance(part, Tensor) and part.dim()}
    for k, (x, part) in enumerate(zip(inputs, parts)):
        if not isinstance(part, Tensor) or part.shape[1:] != x.shape[1:]:
            came = tuple(part.shape) if isinstance(part, Tensor) else part
            raise ValueError(
                f"Baseline {k}: expected a tensor of shape (references, "
                f"{', '.join(map(str, x.shape[1:]))}), got {came}."
            )
    if len(counts) != 1:
        raise ValueError(
            f"The baselines differ in their number of references: {counts}"
        )
    return tuple(
        tuple(b[k : k + 1].to(x).expand_as(x) for x, b in zip(inputs, parts))
        for k in range(counts.pop())
    )
