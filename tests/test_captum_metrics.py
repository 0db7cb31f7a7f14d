"""Captum's metrics and pictures of our explanations."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr._utils import visualization
from captum.metrics import infidelity, sensitivity_max
from captum_cases import case
from torch import Tensor

from captum_ehr import DeepLiftEHR


@pytest.fixture(autouse=True)
def _quiet_captum() -> Any:
    """Captum warns of its hooks, and that KernelShap takes a patient at a time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", module=__name__)
        yield


def test_infidelity_of_an_exact_explanation_of_a_linear_model_is_0() -> None:
    c = case("LogisticRegression")
    masks = [mask.repeat_interleave(4, 0) for mask in c.enc.masks]
    slopes = DeepLiftEHR(c.adapter, multiply_by_inputs=False).attribute(
        c.enc.inputs, c.reference, **c.given()
    )

    def perturb(inputs: Any) -> Any:
        noise = tuple(  # not on padding: the model reads off it what is padding
            0.1 * torch.randn_like(x) * real[: len(x)].unsqueeze(-1)
            for x, real in zip(inputs, masks)
        )
        return noise, tuple(x - n for x, n in zip(inputs, noise))

    torch.manual_seed(0)
    found = infidelity(
        c.adapter, perturb, c.enc.inputs, slopes, n_perturb_samples=4, **c.given()
    )
    assert found.shape == (len(c.enc),) and found.max() < 1e-9
    wrong = tuple(2 * s for s in slopes)
    torch.manual_seed(0)
    worse = infidelity(
        c.adapter, perturb, c.enc.inputs, wrong, n_perturb_samples=4, **c.given()
    )
    assert worse.min() > 1e-6


def test_sensitivity_of_an_explanation() -> None:
    c = case("StageNet")
    explainer = DeepLiftEHR(c.adapter)
    torch.manual_seed(0)

    def perturb(inputs: Any, radius: float) -> Any:
        return tuple(  # not on padding: the model reads off it what is padding
            x + radius * (2 * torch.rand_like(x) - 1) * (x != 0) for x in inputs
        )

    def sensitivity(radius: float) -> Tensor:
        return sensitivity_max(
            explainer.attribute,
            c.enc.inputs,
            perturb,
            perturb_radius=radius,
            n_perturb_samples=2,
            baselines=c.reference,
            **c.given(),
        )

    little, much = sensitivity(1e-3), sensitivity(0.1)
    assert little.shape == (len(c.enc),)
    assert bool((little > 0).all()) and bool((10 * little < much).all())
    assert little.max() < 0.01


def test_captums_text_page_shows_a_patients_codes(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="visualize_text needs it")
    matplotlib.use("Agg")
    c = case("Transformer")
    one = DeepLiftEHR(c.adapter).explain(c.enc)[0]
    frame = one.to_frame()
    record = visualization.VisualizationDataRecord(
        torch.tensor(frame["attribution"].to_numpy()),
        float(torch.sigmoid(one.f_input[0])),
        one.target_label(0),
        "1",
        one.target_label(0),
        float(one.total[0]),
        frame["code"].tolist(),
        float(one.delta[0]),
    )
    page = tmp_path / "codes.html"
    page.write_text(visualization.visualize_text([record]).data)
    shown = page.read_text()
    assert len(frame) > 3 and all(code in shown for code in frame["code"])


def test_captums_time_series_figure_shows_labs(tmp_path: Path, monkeypatch) -> None:
    matplotlib.use("Agg")
    colormap = matplotlib.colormaps.get_cmap  # Captum 0.9 asks where it was until 3.8
    monkeypatch.setattr(matplotlib.cm, "get_cmap", colormap, raising=False)
    c = case("StageNet")
    exp = DeepLiftEHR(c.adapter).explain(c.enc)
    record = exp.features["timed_labs"]
    steps = int(record.mask[0].any(-1).sum())
    figure, axes = visualization.visualize_timeseries_attr(
        exp.attributions["timed_labs"][0, :steps].numpy(),
        record.values[0, :steps].numpy(),
        np.cumsum(record.time[0, :steps].numpy()),
        method="overlay_individual",
        sign="all",
        channel_labels=[f"timed_labs[{k}]" for k in range(3)],
        use_pyplot=False,
    )
    path = tmp_path / "labs.svg"
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    figure.savefig(path)
    shown = path.read_text()
    assert all(f"timed_labs[{k}]" in shown for k in range(3))
    lines = [line.get_ydata() for axis in np.ravel(axes) for line in axis.lines]
    drawn = record.values[0, :steps, 0].numpy()
    assert any(np.array_equal(y, drawn) for y in lines)
