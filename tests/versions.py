"""The libraries' versions, for what the oldest that are supported cannot do."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

TORCH, CAPTUM, PYHEALTH = (Version(version(n)) for n in ("torch", "captum", "pyhealth"))


def before(library: Version, release: str) -> bool:
    """Whether the installed library is older than a release."""
    return library < Version(release)


untold = pytest.mark.skipif(
    before(PYHEALTH, "2.1"), reason="its processors do not tell how wide values are"
)
