"""The result of asking which players act together, and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..propagation import Diagnostics
from .explained import Explained, OfTargets
from .joining import padded
from .player import Player, labels
from .rows import noted, strongest_first
from .selecting import Selector, positions, some
from .sums import aggregated
from .words import unlike

_ENDS = [f"{name}_{end}" for end in "ab" for name in Player._fields]
_PLACES = [name for name in _ENDS if name.startswith(("visit", "position"))]

_NUMBERS = ("f_input", "f_baseline", "rest")
_BY_PLAYER = ("attributions", "last_minus_first", "delta")
_ALIKE = ("model_name", "output", "target_names", "baseline", "mode", "fingerprint")


@dataclass(frozen=True, eq=False)
class Interactions(OfTargets):
    r"""Which players of a patient's record act together, in this model.

    With :math:`x \setminus j` the record whose player j stands at its reference, and
    :math:`x_0 \cup j` the reference with j as in the record,

    .. math:: I_{ij} = \varphi_i(x; x_0 \cup j) - \varphi_i(x \setminus j; x_0)

    is what j, being there, adds to the attribution of i; where the attributions
    :math:`\varphi` are Shapley values this is the Shapley interaction index. The effect
    of the pair is the mean of both ways, :math:`P_{ij} = (I_{ij} + I_{ji})/2`: by how
    much more the two move the output together than apart. Their difference says how
    far it may be trusted; it is 0 where attributions are Shapley values. What three
    players do only together is spread over their pairs.

    All tensors are float64 and on the CPU; where a patient has fewer players than
    another they end in zeros. What is said holds for this model and this reference.

    Args:
        players: By patient, who they are.
        one_way: ``(patients, players, players)``, I.
        attributions: ``(patients, players)``, φ(x; x0).
        last_minus_first: ``(patients, players)``, the exact [f(x) - f(x∖j)] -
            [f(x0∪j) - f(x0)]: what all interactions of j come to.
        delta: ``(patients, players)``, the sum of all I of a j, those with ``rest``
            included and before any rescaling, minus ``last_minus_first``.
        rest: ``(patients,)``, the attributions of what is no player here.
        f_input: ``(patients,)``, the explained output at the record.
        f_baseline: ``(patients,)``, the explained output at the reference.
        target: Per patient, the index of the explained output, or a contrast of two.
        diagnostics: What was run, approximated or did not add up.
        patient_ids: Per patient, the identifier.
        model_name: The name of the explained model.
        output: ``"logit"`` or ``"probability"``.
        target_names: The name of each output index, or None.
        baseline: The reference in words.
        mode: What the label is, in PyHealth's words.
        fingerprint: Tells the weights of the model from others'.
        target_unit: The unit of a regression's label, such as ``"days"``.

    Raises:
        ValueError: If shapes and lengths do not fit together.

    Example:
        >>> from captum_ehr import DeepLiftEHR
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> pairs = DeepLiftEHR(model).interactions(batch, among=3)
        >>> len(pairs), len(pairs["p1"].matrix())
        (4, 3)
        >>> table = pairs.to_frame()
        >>> table.columns.tolist()[2:]
        ['feature_a', 'code_a', 'feature_b', 'code_b', 'effect', 'asymmetry']
        >>> whole = pairs.matrices.sum((1, 2)) + pairs.rest
        >>> torch.allclose(whole, pairs.f_input - pairs.f_baseline, atol=1e-6)
        True
        >>> bool(pairs.delta.abs().max() < 1e-6)
        True
    """

    players: tuple[tuple[Player, ...], ...]
    one_way: Tensor
    attributions: Tensor
    last_minus_first: Tensor
    delta: Tensor
    rest: Tensor
    f_input: Tensor
    f_baseline: Tensor
    target: tuple[Explained, ...]
    diagnostics: Diagnostics
    patient_ids: tuple[str, ...]
    model_name: str = ""
    output: str = "logit"
    target_names: tuple[str, ...] | None = None
    baseline: str = ""
    mode: str | None = None
    fingerprint: str = ""
    target_unit: str = ""

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        count, most = len(self.patient_ids), max(map(len, self.players), default=0)
        wanted = {
            **dict.fromkeys(_NUMBERS, (count,)),
            **dict.fromkeys(_BY_PLAYER, (count, most)),
            "one_way": (count, most, most),
        }
        for name, shape in wanted.items():
            came = tuple(getattr(self, name).shape)
            if came != shape:
                raise ValueError(f"{name} has shape {came}, expected {shape}.")
        if not len(self.players) == len(self.target) == count:
            raise ValueError(
                f"players are given for {len(self.players)} patients and targets for "
                f"{len(self.target)}, expected {count}: one for each of patient_ids."
            )

    @property
    def effect(self) -> Tensor:
        """``(patients, players, players)``: P, the mean of both ways."""
        return (self.one_way + self.one_way.mT) / 2

    @property
    def asymmetry(self) -> Tensor:
        """``(patients, players, players)``: by how much the two ways differ.

        They lie half of it above and below the effect.
        """
        return (self.one_way - self.one_way.mT).abs()

    @property
    def matrices(self) -> Tensor:
        """``(patients, players, players)``: Φ, which shares the attributions out.

        P/2 stands off the diagonal, and on it what is the player's alone, φ minus
        half of its effects: rows sum to the attributions, and all of it, with
        ``rest``, to f(x) - f(x0), whatever the effects' error.
        """
        half = self.effect / 2
        return half + torch.diag_embed(self.attributions - half.sum(2))

    def select(self, indices: Selector) -> Self:
        """Some of the patients; takes what :meth:`Explanation.select` takes."""
        rows = positions(self.patient_ids, indices)
        names = (*_NUMBERS, *_BY_PLAYER, "one_way", "players", "target", "patient_ids")
        fields = {name: some(getattr(self, name), rows) for name in names}
        most = max(map(len, fields["players"]), default=0)
        for name in _BY_PLAYER:
            fields[name] = fields[name][:, :most]
        fields["one_way"] = fields["one_way"][:, :most, :most]
        return replace(self, **fields)

    __getitem__ = select

    def __iter__(self) -> Iterator[Self]:
        """One for each sample."""
        return (self[row] for row in range(len(self)))

    @staticmethod
    def concat(parts: Iterable[Interactions]) -> Interactions:
        """Those of several batches as one, in the order given.

        Raises:
            ValueError: If there are none, or they differ in their model (its name or
                weights), scale, outputs or reference.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there is nothing to concatenate: give some interactions.")
        for name in _ALIKE:
            here = [getattr(part, name) for part in parts]
            if any(other != here[0] for other in here):
                raise ValueError(
                    f"interactions of different {name} cannot be concatenated: "
                    f"{', '.join(sorted(set(map(repr, here))))}."
                )
        most = max(part.attributions.shape[1] for part in parts)
        report = sum((part.diagnostics for part in parts), Diagnostics())
        fields: dict[str, Any] = {"diagnostics": report}
        for name in (*_NUMBERS, *_BY_PLAYER, "one_way"):
            each = [padded(getattr(part, name), (most, most)) for part in parts]
            fields[name] = torch.cat(each)
        for name in ("players", "target", "patient_ids"):
            fields[name] = (
                *chain.from_iterable(getattr(part, name) for part in parts),
            )
        return replace(parts[0], **fields)

    def matrix(self) -> pd.DataFrame:
        """Φ of the one patient, with the players' codes as index and columns.

        Raises:
            ValueError: If there is not exactly one patient; ``pairs[0].matrix()``.
        """
        names = labels(self.only().players[0])
        return pd.DataFrame(self.matrices[0].numpy(), index=names, columns=names)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair of each patient, patient by patient, the strongest first.

        Returns:
            A frame with the columns ``patient_id``, ``sample`` (the row of the
            patient), ``feature_a``, ``code_a``, ``feature_b``, ``code_b``, ``effect``
            and ``asymmetry``; where the players are tokens or visits, also
            ``visit_a``, ``position_a``, ``visit_b`` and ``position_b`` (Int64).
        """
        columns = ["patient_id", "sample", *_ENDS, "effect", "asymmetry"]
        frame = pd.DataFrame(self._rows(), columns=columns)
        frame = frame.astype({"sample": int, "effect": float, "asymmetry": float})
        each = chain.from_iterable(self.players)
        if all(p.visit is None and p.position is None for p in each):
            return frame.drop(columns=_PLACES)
        return frame.astype(dict.fromkeys(_PLACES, "Int64"))

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        """Each pair in the same order in all patients, a patient's strongest first."""
        tables = self.effect.numpy(), self.asymmetry.numpy()
        for sample, mine in enumerate(self.players):
            effects, widths = (table[sample] for table in tables)
            first, second = np.triu_indices(len(mine), 1)
            strength = -np.abs(effects[first, second])
            for k in np.argsort(strength, kind="stable"):
                place = first[k], second[k]
                one, other = sorted((mine[i] for i in place), key=_order)
                numbers = effects[place], widths[place]
                yield (self.patient_ids[sample], sample, *one, *other, *numbers)

    def top(self, k: int | None = 10) -> pd.DataFrame:
        """The strongest pairs of all patients, by their mean absolute effect.

        Args:
            k: How many; None for all.

        Returns:
            A frame with the columns of :meth:`to_frame` that name the pair,
            ``samples`` and ``patients`` (how many have both), ``mean`` and
            ``mean_abs`` (of the effect, over all samples: where there is no such pair,
            or it was not asked about, it counts 0), ``mean_present`` and
            ``asymmetry`` (means over the samples that have it).

        Raises:
            ValueError: If ``k`` is negative.
        """
        if k is not None and k < 0:
            raise ValueError(f"k is {k}, expected None for all, or at least 0.")
        frame = self.to_frame()
        frame["absolute"] = frame["effect"].abs()
        table = aggregated(
            frame,
            [name for name in _ENDS if name in frame],
            True,
            samples=("sample", "size"),
            patients=("patient_id", "nunique"),
            mean=("effect", "sum"),
            mean_abs=("absolute", "sum"),
            mean_present=("effect", "sum"),
            asymmetry=("asymmetry", "sum"),
        )
        table[["mean", "mean_abs"]] /= max(len(self), 1)
        for name in ("mean_present", "asymmetry"):
            table[name] /= table["samples"]
        names = {self.target_label(row) for row in range(len(self))}
        table = noted(strongest_first(table, "mean_abs"), unlike(names))
        return table.head(len(table) if k is None else k)

    def to_shapiq(self) -> Any:
        """The one patient's Φ as ``shapiq.InteractionValues``, for shapiq's plots.

        Pairs have their effects, single players what is theirs alone, as in shapiq's
        k-SII of order 2; the baseline value is f(x0), and ``rest`` a part of it.

        Raises:
            ImportError: If shapiq is not installed.
            ValueError: If there is not exactly one patient.
        """
        import shapiq

        players = range(len(self.only().players[0]))
        matrix = self.matrices[0].numpy()
        base = float(self.f_baseline[0] + self.rest[0])
        values: dict[tuple[int, ...], float] = {(): base}
        values |= {(i,): matrix[i, i] for i in players}
        values |= {(i, j): 2 * matrix[i, j] for i in players for j in players if i < j}
        return shapiq.InteractionValues(
            np.array(list(values.values())),
            index="k-SII",
            max_order=2,
            min_order=0,
            n_players=len(players),
            interaction_lookup={who: place for place, who in enumerate(values)},
            estimated=True,
            baseline_value=base,
        )

    def only(self) -> Self:
        """Itself, where there is one patient.

        Raises:
            ValueError: If there is not exactly one.
        """
        if len(self) != 1:
            raise ValueError(
                f"this is of one patient, and there are {len(self)}: select one, as in "
                "pairs[0]."
            )
        return self


def _order(player: Player) -> tuple[Any, ...]:
    return tuple(-1 if word is None else word for word in player)
