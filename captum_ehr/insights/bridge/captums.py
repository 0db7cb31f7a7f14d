"""What the bridge takes from Captum Insights, where it is installed."""

from __future__ import annotations

try:
    from captum.insights.attr_vis.app import (
        AttributionVisualizer,
        Batch,
        FilterConfig,
        SampleCache,
    )
    from captum.insights.attr_vis.attribution_calculation import AttributionCalculation
    from captum.insights.attr_vis.features import GeneralFeature, TextFeature
except ImportError as error:
    # The bridge can be imported without it, for its documentation, not used.
    MISSING: ImportError | None = error
    AttributionVisualizer = AttributionCalculation = object
    GeneralFeature = TextFeature = object
    Batch = FilterConfig = SampleCache = None
else:
    MISSING = None


def not_installed(missing: ImportError) -> ImportError:
    """What to say, and what to do, where Captum Insights cannot be imported."""
    import captum

    return ImportError(
        f"Captum Insights cannot be imported ({missing}); Captum here is "
        f"{captum.__version__}, and Captum Insights left it with 0.9. Install it with "
        "pip install 'captum-ehr[captum-insights]', in an environment of its own, or "
        "use captum_ehr.insights.AttributionVisualizer, which needs no Captum Insights."
    )


__all__ = [
    "MISSING",
    "AttributionCalculation",
    "AttributionVisualizer",
    "Batch",
    "FilterConfig",
    "GeneralFeature",
    "SampleCache",
    "TextFeature",
    "not_installed",
]
