"""A dataset of another vocabulary is refused wherever one is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cohort_cases import dataset, mlp, samples
from versions import untold

from captum_ehr import DeepLiftEHR, DeepLiftShapEHR, PyHealthAdapter
from captum_ehr.adapter import check_dataset, reference_patients
from captum_ehr.cohort import explain_cohort
from captum_ehr.insights import AttributionVisualizer


@pytest.fixture(scope="module")
def model() -> Any:
    return mlp(dataset(8))


def batch(model: Any) -> Any:
    return reference_patients(model.dataset, 2)


WAYS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "page": lambda model, data, _: AttributionVisualizer(model, data),
    "second model of a page": lambda model, data, _: AttributionVisualizer(
        [mlp(data), model], data
    ),
    "cohort": lambda model, data, folder: explain_cohort(model, data, folder / "new"),
    "references": lambda model, data, _: DeepLiftShapEHR(model).explain(
        batch(model), data
    ),
    "references of a cohort": lambda model, data, folder: explain_cohort(
        DeepLiftShapEHR(model), model.dataset, folder / "new", baselines=data
    ),
    "mean": lambda model, data, _: PyHealthAdapter(model).baseline(
        batch(model), "mean", dataset=data
    ),
}


@pytest.mark.parametrize("way", WAYS)
class TestRefused:
    def test_other_order_of_as_many_codes(
        self, way: str, model: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"'conditions'.*number 2 is 'I\d\d' in"):
            WAYS[way](model, dataset(rows=samples(8)[::-1]), tmp_path)

    def test_fewer_codes(self, way: str, model: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'conditions'.*and nothing in the sec"):
            WAYS[way](model, dataset(rows=samples(8)[:2]), tmp_path)

    @untold
    def test_other_columns(self, way: str, model: Any, tmp_path: Path) -> None:
        rows = [{**one, "labs": one["labs"][:2]} for one in samples(8)]
        with pytest.raises(ValueError, match=r"'labs'.*2 column\(s\).*for 3"):
            WAYS[way](model, dataset(rows=rows), tmp_path)

    def test_other_labels(self, way: str, model: Any, tmp_path: Path) -> None:
        rows = [{**one, "label": "ny"[one["label"]]} for one in samples(8)]
        with pytest.raises(ValueError, match=r"'label'.*number 0 is '0' in.*'n'"):
            WAYS[way](model, dataset(rows=rows), tmp_path)


def test_a_dataset_may_lack_a_label() -> None:
    def labelled(**vocabulary: int) -> Any:
        processors = {"outcome": SimpleNamespace(label_vocab=vocabulary)}
        return SimpleNamespace(output_processors=processors)

    held = labelled(died=0, home=1, ward=2)
    model = SimpleNamespace(dataset=held, label_keys=("outcome",))
    check_dataset((), model, labelled(died=0, home=1))
    with pytest.raises(ValueError, match="'outcome'.*number 1 is 'home' in.*'ward'"):
        check_dataset((), model, labelled(died=0, ward=1))


def test_the_models_own_processors_are_taken(model: Any) -> None:
    from pyhealth.datasets import create_sample_dataset

    own = model.dataset
    data = create_sample_dataset(
        samples(8)[::-1],
        {"conditions": "sequence", "labs": "tensor"},
        {"label": "binary"},
        input_processors=own.input_processors,
        output_processors=own.output_processors,
    )
    shown = AttributionVisualizer(model, data)
    frame = DeepLiftEHR(model).explain(batch(model)).to_frame()
    assert len(shown) == 8 and len(frame)
