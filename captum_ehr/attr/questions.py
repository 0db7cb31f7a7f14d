"""What else may be asked of an explainer: pairs, changes, belief, the account."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from ..adapter import Baseline, PyHealthAdapter
from ..adapter.edits import Name
from ..adapter.fast_stagenet import use_fast_forward
from ..explanation import Evaluation, Interactions, WhatIf
from ..propagation import (
    AuditTape,
    TwoSided,
    foreign_functions,
    multipliers,
    two_passes,
)
from .asking import answers
from .assembly import assembled_pairs, in_words
from .changed_records import answered
from .classes import counts
from .completeness import AttributionWarning, CompletenessError
from .engine import Engine
from .evaluation.evaluating import evaluated
from .outputs import rounded_at, select_again
from .pairwise import Scored, pairs_of, rows_at_once
from .targets import Target, asked_of, select


class Questions(Engine):
    """Methods of :class:`captum_ehr.DeepLiftEHR` beside its attributions."""

    def interactions(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        players: str = "code",
        among: int | None = None,
    ) -> Interactions:
        """Which players of each patient's record act together, in this model.

        Of n players it takes 2n + 1 explanations, as rows of one batch where they are
        few (``internal_batch_size`` bounds them), all for the output that is explained
        of the record itself.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`.
            players: Who they are; see :meth:`PyHealthAdapter.feature_mask`.
            among: Only so many of each patient's players, those with the largest
                attributions; all where there are fewer, or by default.

        Raises:
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If there are no such players, ``among`` is no positive integer,
                the explainer returns multipliers, or the model's score of a patient
                depends on who else is in the batch (give such patients one by one).
            CompletenessError: If rows do not add up and ``completeness="raise"``.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> pairs = DeepLiftEHR(model).interactions(batch, among=3)
            >>> len(pairs["p1"].to_frame())
            3
        """
        if among is not None and not counts(among):
            raise ValueError(f"among={among!r}; a whole number, at least 1, or None.")
        if not self.multiplies_by_inputs:
            raise ValueError(
                "interactions needs multiply_by_inputs=True: multipliers have no sum."
            )
        grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad), torch.inference_mode(False):
            prepared = self.prepare(batch, baselines, None).in_sums(self.model)
            model, encoded = self.model, prepared.encoded
            if encoded is None or not isinstance(model, PyHealthAdapter):
                raise TypeError("interactions takes a batch, and a PyHealth model.")
            mask = model.feature_mask(encoded, players)
            targets = asked_of(target, len(encoded), model.labels)
            output = answers(self, prepared)
            value, index = select(output, targets, model.labels)
            coarse = rounded_at(model, self.output, index, output)
            largest = 0.0 if coarse is None else float(coarse.max())
            checked = self.completeness != "off"
            scored = Scored(prepared, mask, value, index, largest, checked)
            limit = self.internal_batch_size
            step = limit or rows_at_once(model, prepared)
            found = pairs_of(scored, among, self.row_results, step)
        words = in_words(baselines, len(prepared.references))
        pairs = assembled_pairs(model, encoded, scored, found, self.output, words)
        if self.completeness == "raise" and any(bool(r.off.any()) for r in found.rows):
            raise CompletenessError(" ".join(pairs.diagnostics.messages))
        for message in pairs.diagnostics.messages:
            warnings.warn(message, AttributionWarning, stacklevel=2)
        return pairs

    def what_if(
        self,
        batch: Any,
        remove: str | Iterable[Name] = (),
        set: Mapping[Name, float] | None = None,
        *,
        baselines: Baseline = "unk",
        target: Target = None,
        how: Literal["drop", "reference"] = "drop",
    ) -> WhatIf:
        """The model's own answer without a code, or with another value.

        The honest check of an explanation: what the model itself then says, beside what
        the attributions say that it would. It takes a forward for each change and, of
        several, one for all together; the batch is not touched.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            remove: Codes to take away, wherever they stand in a record: ``"I50.9"``,
                ``("drugs", "N02BE01")`` where several features have such a code, or
                with a visit (from 0, as in ``to_frame``) behind it.
            set: From a column of values, named likewise, to the value that stands there
                instead, in the units of the data, at all steps that the record has or
                in the one visit; what is missing (NaN) or padding stays so.
            baselines: See :meth:`PyHealthAdapter.baseline`; what the attributions are
                measured from.
            target: See :meth:`attribute`; for both records it is the original's.
            how: ``"drop"``: the record as if the code had never been in it: the tokens
                behind it move up, the row is padded to the batch's width, a visit that
                is left empty stays (as PyHealth's processors write it), a time that is
                the token's own goes along, a category becomes 0. ``"reference"``: it is
                put to its reference, which is the change that its attribution is a
                share of; columns of values may then be removed as well.

        Raises:
            KeyError: If there is no such feature, code or column; near ones are named.
            TypeError: If the model is not PyHealth's, or the batch no batch.
            ValueError: If a name fits several features or asks for a visit where there
                are none, nothing is asked for, a value is not finite, ``how`` is
                unknown, the explainer returns multipliers or attributes patients
                together, there are several references to remove to, or the model reads
                other entries place by place with the tokens to drop.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> answers = DeepLiftEHR(model).what_if(batch, remove=["I50.9"])
            >>> answers.to_frame()["places"].tolist()
            [1, 0, 0, 1]
        """
        return answered(self, batch, remove, set, baselines, target, how)

    def evaluate(
        self,
        batch: Any,
        baselines: Baseline = "unk",
        target: Target = None,
        *,
        players: str = "code",
        methods: Iterable[Any] | Mapping[str, Any] = (
            "IntegratedGradients",
            "InputXGradient",
            "random",
        ),
        measures: Iterable[str] | None = None,
        budget: int = 100_000,
        seed: int = 0,
        show_progress: bool = True,
    ) -> Evaluation:
        """How far explanations of this model can be believed, beside other methods'.

        Nothing of it needs a truth that is known: the model itself is asked, with some
        of a patient's players at their reference. :class:`captum_ehr.Evaluation` says
        what each figure is.

        Args:
            batch: A batch of PyHealth's data loader, or an encoded one.
            baselines: See :meth:`PyHealthAdapter.baseline`.
            target: See :meth:`attribute`; the same for all methods.
            players: Who they are; see :meth:`PyHealthAdapter.feature_mask`.
            methods: Whom to compare with: names, classes or instances of
                ``captum.attr`` (their model and target are replaced by this one), or
                ``"random"``, which has no merit and shows what that looks like. A
                mapping gives them names; in one there may also be functions of your
                own, from the batch to attributions by feature key.
            measures: ``"curves"``, ``"removal"``, ``"infidelity"``, ``"sensitivity"``,
                ``"randomised"``, ``"shapley"``, measured in this order; by default all.
            budget: How many rows the model may evaluate, for all together. What does
                not fit is NaN, and a note. What functions of your own evaluate is not
                seen.
            seed: Of all that is drawn.
            show_progress: Whether bars show how far it is.

        Raises:
            TypeError: If the model is not PyHealth's, the batch no batch, or a method
                none.
            ValueError: If there is nobody with two players, no such method or measure,
                the budget is less than one explanation, ``target="all"`` is asked for,
                or the explainer returns multipliers or attributes patients together.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> found = DeepLiftEHR(model).evaluate(
            ...     batch, methods=["random"], measures=["curves"], show_progress=False
            ... )
            >>> found.to_frame()[["method", "patients"]].values.tolist()
            [['DeepLiftEHR', 4], ['random', 4]]
        """
        grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad), torch.inference_mode(False):
            return evaluated(
                self,
                batch,
                baselines,
                target,
                players=players,
                methods=methods,
                measures=measures,
                budget=budget,
                seed=seed,
                show_progress=show_progress,
            )

    def audit(
        self,
        inputs: Any,
        baselines: Baseline = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> pd.DataFrame:
        """The account of an explanation, operation by operation.

        Where attributions do not add up, the operations that lose the difference come
        first. Takes what :meth:`attribute` takes, the whole batch in one run, against
        one reference, and the line from it in one segment.

        Returns:
            A frame with a row per operation, module and rule, the largest residual
            first: ``operation``, ``module`` (its path, ``""`` for the model itself),
            ``calls``, ``rule``, ``exact``, ``share`` (how much of ``Σ|f(x) - f(x0)|``
            over the patients flows through the output of these calls: operations in a
            row each carry it again, those side by side divide it and may cancel) and
            ``residual`` (how much of it they lose: Σ over the calls of
            ``|Σ m·Δin - Δout|``). The last two rows are what came past every rule,
            linear operations where all is well, and the whole explanation.

        Raises:
            ValueError: If there are several references.

        Example:
            >>> from captum_ehr import DeepLiftEHR
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> account = DeepLiftEHR(model).audit(batch)
            >>> bool(account["residual"].max() < 1e-5)
            True
        """
        with torch.inference_mode(False):
            prepared = self.prepare(inputs, baselines, additional_forward_args).fresh()
            if len(prepared.references) > 1:
                raise ValueError(
                    f"audit: {len(prepared.references)} references were given, and the "
                    "account is of an explanation against one; ask for each by itself."
                )
            tape = AuditTape(self.table)

            def follow(inside: nn.Module) -> None:
                use_fast_forward(inside)  # the account is of what is explained
                tape.follow(inside)

            view = self.forward_view(follow)
            inputs, baselines = prepared.inputs, prepared.references[0]
            sides = two_passes(
                view.forward, inputs, baselines, prepared.args, tape=tape
            )
            value, index = select(sides.output, target, view.labels)
            reference = select_again(sides.reference_output, index)
            return _audited(sides, tape, value, reference, inputs, baselines)


def _audited(
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
    change = value.detach() - reference
    whole = change.abs().sum().clamp_min(torch.finfo(change.dtype).tiny)
    ms = multipliers(value * (change.sign() / whole), inputs)
    with torch.no_grad():
        parts = zip(ms, inputs, baselines)
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
