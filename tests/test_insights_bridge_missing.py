"""The bridge where Captum Insights is not installed."""

from __future__ import annotations

import pytest

from captum_ehr.datasets import tiny_model
from captum_ehr.insights.bridge import MISSING, captum_visualizer


@pytest.mark.skipif(MISSING is None, reason="Captum Insights is installed")
def test_without_captum_insights_it_says_what_to_install() -> None:
    with pytest.raises(
        ImportError, match=r"pip install 'captum-ehr\[captum-insights\]"
    ):
        captum_visualizer(tiny_model()[0])
