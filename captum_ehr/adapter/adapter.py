"""PyHealthAdapter: any PyHealth model as a function of float tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..propagation import private_view
from .descriptions import description
from .encoded import EncodedBatch
from .features import Feature
from .masks import FeatureMask, feature_mask
from .ranges import value_ranges
from .records import FeatureKeyError
from .references import Baseline, reference
from .schema import describe, times, zero_labels

#: Puts a model's modules aside for an explanation; see propagation.private_view.
Viewer = Callable[[nn.Module], Any]


class PyHealthAdapter(nn.Module):
    """Makes a PyHealth model a Captum-compatible forward function.

    The model's own ``forward`` runs, in eval mode and on a private view of its
    modules, with the given embeddings put in where its embedding tables would have
    looked up the token ids. No mask, label or default is added, so the output equals
    ``model.eval()(**batch)["logit"]``; the model itself is not touched. Models need
    not implement PyHealth's ``Interpretable``.

    Args:
        model: A PyHealth model, in any mode, on any device.
        embeddings: Where a feature's embedding table is, for models of your own:
            feature key to module path. By default the ``nn.Embedding`` whose name
            ends in the feature key.
        score: The key of the model's output to explain: by default ``"logit"``, or
            ``"y_prob"`` for the medication models, which return no logit.
        extra_keys: Batch entries besides features and labels that the model's
            forward reads; tensors with the batch as dimension 0.
        attribute_time: Also give the times of each feature that has some (StageNet's)
            as an input of its own, ``"<feature key>.time"``, after the features.

    Raises:
        TypeError: If it is not a PyHealth model.
        ValueError: If a token feature has no embedding table.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()
        >>> adapter = PyHealthAdapter(model)
        >>> enc = adapter.encode(batch)
        >>> logits = adapter(*enc.inputs, *enc.additional_forward_args)
        >>> torch.equal(logits, model.eval()(**batch)["logit"])
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        embeddings: Mapping[str, str] | None = None,
        score: str | None = None,
        extra_keys: Sequence[str] = (),
        attribute_time: bool = False,
    ) -> None:
        super().__init__()
        known = description(model)
        tables = {**known.embeddings, **(embeddings or {})}
        structure = [key for key in known.structure if key not in tables]
        features = describe(model, tables, structure)
        self.features: tuple[Feature, ...] = features
        if attribute_time:
            self.features = (*features, *times(features))
        self.model: Any = model
        self.score = known.score if score is None else score
        self.extra_keys = (*structure, *extra_keys)
        self._losses = known.losses
        self._is_view = False

    ranges = cached_property(value_ranges)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """The feature keys, in the order of the inputs."""
        return tuple(feature.key for feature in self.features)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.model.parameters())).device

    @property
    def mode(self) -> str | None:
        """PyHealth's word for the label: binary, multiclass, multilabel, regression."""
        return getattr(self.model, "mode", None)

    @property
    def scale(self) -> str:
        """What the score is: ``"logit"`` or ``"probability"``."""
        probable = self.score == "y_prob" and self.mode != "regression"
        return "probability" if probable else "logit"

    @property
    def labels(self) -> dict[Any, int]:
        """The label vocabulary of the dataset: from label to index."""
        for key in getattr(self.model, "label_keys", ()):
            processor = self.model.dataset.output_processors.get(key)
            return dict(getattr(processor, "label_vocab", {}))
        return {}

    @property
    def target_names(self) -> tuple[str, ...] | None:
        """The name of each output; a one-logit binary model's is its positive label."""
        names = [
            str(label) for label in sorted(self.labels, key=self.labels.__getitem__)
        ]
        if not names:
            return None
        return (names[-1],) if self.mode == "binary" else tuple(names)

    def encode(self, batch: Mapping[str, Any]) -> EncodedBatch:
        """A data loader's batch as inputs, masks and additional arguments.

        Args:
            batch: What PyHealth's data loader yields, one entry per feature key: a
                tensor, or a tuple of tensors in the processor's schema, with or
                without a mask appended. Labels and other entries are not needed.

        Returns:
            The encoded batch, on the model's device.

        Raises:
            TypeError: If the batch is no mapping, or an entry no tensor.
            KeyError: If a feature key is missing.
            ValueError: If an entry does not fit its schema, holds NaN, is empty, or
                has another number of patients than the others.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"Expected a batch as PyHealth's data loader yields it (a dict), got "
                f"{type(batch).__name__}."
            )
        read = {f.key: f.key if f.owner is None else f.owner.key for f in self.features}
        missing = [k for k in (*read.values(), *self.extra_keys) if k not in batch]
        if missing:
            raise FeatureKeyError(
                f"The batch lacks {', '.join(map(repr, missing))}, which the model "
                f"reads. It has: {', '.join(map(repr, batch))}."
            )
        with torch.inference_mode(False), torch.no_grad():
            named = {
                f.key: self._own(f.read(batch[read[f.key]])) for f in self.features
            }
            inputs, rest = [], []
            for feature in self.features:
                parts = named[feature.key]
                ids = parts["value"]
                inputs.append(self.embed(feature, ids) if feature.embedding else ids)
                rest += self._pack(feature, parts)
            rest += [self._own({"": batch[key]})[""] for key in self.extra_keys]
            records = {f.key: f.record(named[f.key]) for f in self.features}
        sizes = {key: len(record.values) for key, record in records.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"The features differ in their number of patients: {sizes}."
            )
        own = tuple(x.detach() if x.is_floating_point() else x.float() for x in inputs)
        return EncodedBatch(
            own,
            tuple(record.mask for record in records.values()),
            tuple(rest),
            records,
            _patient_ids(batch, next(iter(sizes.values()))),
            looked_up=own,
        )

    def baseline(
        self,
        batch: Mapping[str, Any] | EncodedBatch,
        baselines: Baseline = "unk",
        *,
        dataset: Any = None,
    ) -> tuple[Tensor, ...]:
        """The reference of a batch: a tuple like ``encode(batch).inputs``.

        Padding stays padding: masked positions keep the input's own values, in every
        reference but ``"pyhealth"``.

        Args:
            batch: A data loader's batch, or an encoded one.
            baselines: ``"unk"`` (the UNK token for tokens, 0 for values), ``"pad"``
                (absence: the zero embedding, 0 for values), ``"mean"`` or
                ``"median"`` of the dataset, ``"pyhealth"`` (what PyHealth's DeepLift
                takes: UNK also on padding, 0.01 for values); a mapping from feature
                key to a number, to raw values as the data loader gives them (tuples
                included) or to embeddings, other features taking the default; or a
                callable that is given the encoded batch and returns such a mapping,
                or a tuple of tensors.
            dataset: For ``"mean"`` and ``"median"``; the model's by default.

        Raises:
            ValueError: If the name is unknown, or a shape does not fit.
            KeyError: If the mapping names a feature that the model does not have.
        """
        encoded = batch if isinstance(batch, EncodedBatch) else self.encode(batch)
        dataset = self.model.dataset if dataset is None else dataset
        with torch.inference_mode(False), torch.no_grad():
            return reference(self, encoded, baselines, dataset)

    def feature_mask(
        self, batch: Mapping[str, Any] | EncodedBatch, players: str = "code"
    ) -> FeatureMask:
        """What Captum's perturbation methods take away together, as feature_mask.

        Padding is a player of its own, whose removal changes nothing; ignore what
        FeaturePermutation gives it, which puts there what other patients have.

        Args:
            batch: A data loader's batch, or an encoded one.
            players: ``"code"``: all occurrences of a code, or all steps of a column
                of values; ``"token"``: each token or value; ``"visit"``: visit k in
                all features that have visits or steps, each other feature as a whole;
                ``"feature"``: each feature. For FeaturePermutation, which exchanges
                patients, only the last two are the same thing in each.

        Returns:
            A tuple of integer tensors, ``(patients, positions ..., 1)`` for tokens
            and shaped like the values for others. Its ``players`` names them.

        Raises:
            ValueError: If there are no such players, or the features' visits differ.

        Example:
            >>> from captum_ehr.datasets import tiny_model
            >>> model, batch = tiny_model()
            >>> mask = PyHealthAdapter(model).feature_mask(batch)
            >>> [player.code for player in mask.players[0]]
            ['I50.9', 'N18.3', 'I10', 'labs[0]', 'labs[1]']
        """
        encoded = batch if isinstance(batch, EncodedBatch) else self.encode(batch)
        return feature_mask(self.features, encoded, players)

    def embed(self, feature: Feature, ids: Tensor) -> Tensor:
        """Look token ids up in the feature's own table: ``(*ids.shape, width)``."""
        assert feature.embedding is not None
        table = self.model.get_submodule(feature.embedding)
        return nn.functional.embedding(ids, table.weight.detach())

    def private(self, viewer: Viewer = private_view) -> PyHealthAdapter:
        """This adapter over a private view of the model, made once for many calls."""
        copy = PyHealthAdapter.__new__(PyHealthAdapter)
        nn.Module.__init__(copy)
        copy.features, copy.score = self.features, self.score
        copy.extra_keys, copy._losses = self.extra_keys, self._losses
        copy.model = _without_loss(viewer(self.model), self._losses)
        copy._is_view = True
        copy.training = False
        return copy

    def forward(self, *args: Tensor) -> Tensor:
        """The model's score for given embeddings and values.

        Args:
            *args: ``*enc.inputs, *enc.additional_forward_args``; or (embedding, mask)
                pairs as ``enc.pairs`` has them, followed by the rest.

        Returns:
            ``(batch, outputs)``, what the model itself returns as its logit.
        """
        view = self.model if self._is_view else self.private().model
        count = len(self.features)
        inputs = [x[0] if isinstance(x, (tuple, list)) else x for x in args[:count]]
        if torch.is_grad_enabled() and not self._is_view:
            inputs = [_tracked(x) for x in inputs]
        rest = iter(args[count:] if len(args) > count else self.assumed_args(args))
        times = {f.owner.key: x for f, x in zip(self.features, inputs) if f.owner}
        batch: dict[str, Any] = {
            feature.key: self._unpack(
                view, feature, given, times.get(feature.key), rest
            )
            for feature, given in zip(self.features, inputs)
            if feature.owner is None
        }
        batch.update(zip(self.extra_keys, rest))
        batch.update(zero_labels(self.model, inputs[0].shape[0], inputs[0].device))
        return self._score(view(**batch))

    def _score(self, output: Any) -> Tensor:
        try:
            score = output[self.score]
        except (KeyError, TypeError):
            keys = ", ".join(map(repr, output)) if isinstance(output, Mapping) else "?"
            raise FeatureKeyError(
                f"{type(self.model).__name__} returns no {self.score!r}; it returns "
                f"{keys}. Say which with PyHealthAdapter(model, score=...)."
            ) from None
        return score

    def _own(self, parts: Mapping[str, Tensor | None]) -> dict[str, Any]:
        """On the model's device, and ordinary tensors even under inference mode."""
        device = self.device
        return {
            name: None
            if part is None
            else (part.clone() if part.is_inference() else part.detach()).to(device)
            for name, part in parts.items()
        }

    def _pack(self, feature: Feature, parts: Mapping[str, Any]) -> list[Tensor]:
        """Ids, times and masks as additional arguments; ``(batch, 0)`` if absent."""
        value = parts["value"]
        packed = [value] if feature.embedding else []
        for name in feature.companions:
            part = parts.get(name)
            packed.append(value.new_empty(len(value), 0) if part is None else part)
        return packed

    def _unpack(
        self, view: Any, feature: Feature, given: Tensor, time: Tensor | None, rest: Any
    ) -> Any:
        """The batch entry that the model's forward expects for one feature."""
        value = given
        if feature.embedding is not None:
            value = next(rest)
            table = view.get_submodule(feature.embedding)
            table.__dict__["forward"] = partial(_lookup, feature.key, given, value)
        parts: dict[str, Tensor | None] = {"value": value}
        for name in feature.companions:
            part = next(rest)
            absent = part.dim() == 2 and part.shape[1] == 0 and value.shape[1:] != (0,)
            parts[name] = None if absent else part
        if time is not None:
            parts["time"] = time
        entry = [parts[name] for name in feature.schema]
        if "mask" not in feature.schema and parts["mask"] is not None:
            entry.append(parts["mask"])
        return tuple(entry) if len(entry) > 1 else entry[0]

    def assumed_args(self, args: Sequence[Any]) -> list[Tensor]:
        """The additional arguments of bare pairs: ids that have the mask's padding.

        Raises:
            ValueError: If the model needs more than embeddings and masks.
        """
        rest: list[Tensor] = []
        for feature, pair in zip(self.features, args):
            timed = any(name != "mask" for name in feature.companions)
            if timed or self.extra_keys or not isinstance(pair, (tuple, list)):
                raise ValueError(
                    f"Feature {feature.key!r}: the model needs more than embeddings "
                    f"({', '.join(feature.companions)}). Pass additional_forward_args="
                    "enc.additional_forward_args, or enc.pairs as it is."
                )
            ids = torch.where(pair[1], feature.special("<unk>", 1), 0)
            parts = {"value": ids if feature.embedding else pair[0]}
            rest += self._pack(feature, parts)
        return rest


def _tracked(given: Tensor) -> Tensor:
    """Needing a gradient, as a model's activations do; Captum hooks them for it."""
    if given.requires_grad or given.is_inference():
        return given
    return given.detach().requires_grad_()


def _lookup(key: str, given: Tensor, expected: Tensor, ids: Tensor) -> Tensor:
    """What the model's table would have returned for ``ids``."""
    if ids.numel() != expected.numel():
        raise ValueError(
            f"Feature {key!r}: the model looks up {tuple(ids.shape)} ids, the batch "
            f"has {tuple(expected.shape)}; it selects tokens before embedding them, so "
            "their embeddings cannot be put in."
        )
    return given if ids.shape == expected.shape else given.reshape(*ids.shape, -1)


def _without_loss(view: Any, losses: Sequence[str]) -> Any:
    """A view whose forward spends nothing on what is not its score."""
    view.__dict__["get_loss_function"] = lambda: _no_loss
    for path in losses:
        owner, _, name = path.rpartition(".")
        view.get_submodule(owner).__dict__[name] = _no_loss
    return view


def _no_loss(logits: Tensor, *_: Any, **__: Any) -> Tensor:
    return logits.new_zeros(())


def _patient_ids(batch: Mapping[str, Any], count: int) -> tuple[str, ...]:
    ids = batch.get("patient_id")
    if isinstance(ids, (list, tuple)) and len(ids) == count:
        return tuple(map(str, ids))
    return tuple(map(str, range(count)))
