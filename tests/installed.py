"""What a fresh installation has to do: ``python -I tests/installed.py``.

Without the extras, and without anything of the working tree; ``make dist-check``
runs it in an environment that holds the wheel and nothing else.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import distribution
from pathlib import Path

import captum_ehr
from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.datasets import tiny_model


def main() -> None:
    home = Path(captum_ehr.__file__)
    assert "site-packages" in home.parts, f"{home} is not an installation"
    assert distribution("captum-ehr").version == captum_ehr.__version__
    model, batch = tiny_model()
    explanation = DeepLiftEHR(model).explain(batch)
    assert explanation.delta.abs().max() < 1e-5
    with tempfile.TemporaryDirectory() as folder:
        saved = explanation.save(Path(folder, "patients.parquet"))
        assert Explanation.load(saved)["p1"]._repr_html_().startswith("<")
    assert "</html>" in explanation["p1"].to_html()


if __name__ == "__main__":
    main()
