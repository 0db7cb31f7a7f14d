"""Captum Insights' visualizer, of the patients of a PyHealth model."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from torch import nn

from ...adapter import Baseline, PyHealthAdapter
from ...attr import DeepLiftEHR
from ...explanation.feature_record import Words
from .calculation import METHOD, EHRCalculation
from .captums import (
    MISSING,
    AttributionVisualizer,
    FilterConfig,
    SampleCache,
    not_installed,
)
from .classes import ClassScores, class_names
from .features import CodesFeature, ValuesFeature
from .patients import Patients


def captum_visualizer(
    model: nn.Module,
    dataset: Any = None,
    classes: Sequence[str] | None = None,
    *,
    baselines: Baseline = "unk",
    names: Words | None = None,
    num_examples: int = 4,
    **options: Any,
) -> Any:
    """A Captum Insights visualizer of a PyHealth model's patients.

    Codes become text features (one word per real token, padding left out) and values
    general features; masks, ids and times are additional arguments; a model with one
    logit has two classes, whose attributions differ in sign. Patients are encoded one
    at a time, when the page fetches them, and the last ones kept: after training on,
    make another.

    Args:
        model: A PyHealth classifier, or a :class:`~captum_ehr.PyHealthAdapter` of one.
        dataset: PyHealth samples (anything with ``len`` and integer indices); by
            default those of the model.
        classes: The name of each class, in the order of the label vocabulary; by
            default the labels. A model with one logit has two.
        baselines: See :meth:`~captum_ehr.PyHealthAdapter.baseline`, for all methods.
        names: Human names of codes, shown after the code, and of values, shown in its
            place; or such a table per feature key.
        num_examples: How many patients a fetch shows.
        **options: Of :class:`~captum_ehr.DeepLiftEHR`, ``rules`` or ``completeness``
            for example.

    Returns:
        A ``captum.insights.AttributionVisualizer``, with ``serve``, ``render`` and
        ``visualize``. Its list of methods begins with ``DeepLiftEHR``. Each feature
        of its output also has ``attributions``: what is drawn, before Captum Insights
        scales it, in the units of the model's score.

    Raises:
        ImportError: If Captum Insights is not installed.
        TypeError: If the model is not PyHealth's.
        OSError: From ``serve``, if the port is in use.
        ValueError: If it is no classifier, has no patients, or ``classes`` does not
            fit it.

    Example:
        >>> from captum_ehr.datasets import tiny_model
        >>> model, batch = tiny_model()  # doctest: +SKIP
        >>> visualizer = captum_visualizer(
        ...     model, classes=["survived", "died"]
        ... )  # doctest: +SKIP
        >>> visualizer.serve(port=8080)  # doctest: +SKIP
        8080
    """
    if MISSING is not None:
        raise not_installed(MISSING) from MISSING
    explainer = DeepLiftEHR(model, **options)
    adapter = explainer.model
    if not isinstance(adapter, PyHealthAdapter):
        adapter = PyHealthAdapter(model)  # says what is wrong with it
    samples = adapter.model.dataset if dataset is None else dataset
    if len(samples) == 0:
        raise ValueError("The dataset has no patients: there is nothing to show.")
    if num_examples < 1:
        raise ValueError(f"num_examples is {num_examples}, expected at least 1.")
    patients = Patients(adapter, samples, baselines)
    scores = ClassScores(adapter, patients.width())
    return EHRVisualizer(
        scores, class_names(scores, classes), patients, explainer, names, num_examples
    )


class EHRVisualizer(AttributionVisualizer):
    """Captum Insights' visualizer of patients; made by :func:`captum_visualizer`.

    Args:
        scores: The model.
        classes: Their names.
        patients: Whom to show.
        explainer: Ours.
        names: Human names of codes and values.
        num_examples: How many patients a fetch shows.
    """

    def __init__(
        self,
        scores: ClassScores,
        classes: list[str],
        patients: Patients,
        explainer: DeepLiftEHR,
        names: Words | None,
        num_examples: int,
    ) -> None:
        features = [
            (ValuesFeature if feature.embedding is None else CodesFeature)(
                patients, feature.key, names or {}
            )
            for feature in patients.adapter.features
        ]
        super().__init__(scores, classes, features, patients)
        self.attribution_calculation = EHRCalculation(
            scores, classes, features, patients, explainer
        )
        self.num_examples = num_examples
        self._config = FilterConfig(METHOD, {}, num_examples=num_examples)
        self._dataset_iter = chain.from_iterable(repeat(patients))
        self._busy = threading.Lock()

    def get_insights_config(self) -> dict[str, Any]:
        """What the page offers: Captum's methods, and ours before them."""
        config = super().get_insights_config()
        return {**config, "methods": [METHOD, *config["methods"]]}

    def visualize(self) -> list[Any]:
        """The next patients that the filters let through, as many as there are.

        Captum's own goes on looking until it has enough, for ever if nobody matches.
        """
        with self._busy:
            self._outputs = list(islice(self._matching(), self._config.num_examples))
            return [output for output, _ in self._outputs]

    def _matching(self) -> Iterator[tuple[Any, Any]]:
        """Each patient once, going on where the last fetch stopped."""
        for _ in range(len(self.dataset)):
            batch = next(self._dataset_iter)
            sample = SampleCache(batch.inputs, batch.additional_args, batch.labels)
            output = self._calculate_vis_output(*sample)
            if output is not None:
                yield output, sample

    def _update_config(self, settings: Mapping[str, Any]) -> None:
        super()._update_config(settings)
        self._config = self._config._replace(num_examples=self.num_examples)

    def _serve(
        self,
        blocking: bool = False,
        debug: bool = False,
        port: int | None = None,
        bind_all: bool = False,
    ) -> int:
        """Captum's page and routes on a server that today's Werkzeug can start."""
        from captum.insights.attr_vis import server
        from werkzeug.serving import make_server

        server.visualizer = self  # where Captum's routes look for it
        host = "0.0.0.0" if bind_all else "127.0.0.1"
        with _listening(host, port or 0) as heard:  # the server takes a copy of it
            port = heard.getsockname()[1]
            running = make_server(
                host, port, server.app, threaded=True, fd=heard.fileno()
            )
        running.log_startup()
        if blocking:
            running.serve_forever()
        else:
            threading.Thread(target=running.serve_forever, daemon=True).start()
        return port


def _listening(host: str, port: int) -> socket.socket:
    """A socket of our own: Werkzeug ends the process where a port is in use."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise OSError(
            error.errno,
            f"Port {port} cannot be served ({error.strerror}); name another.",
        ) from error
