"""What a fresh installation has to do: ``python -I tests/installed.py README.md``.

Without the extras, and without anything of the working tree; ``make dist-check``
runs it in an environment that holds the wheel and nothing else.
"""

from __future__ import annotations

import re
import sys
import tempfile
from contextlib import chdir
from importlib.metadata import distribution
from pathlib import Path

import captum_ehr
from captum_ehr import DeepLiftEHR, Explanation
from captum_ehr.datasets import tiny_model


def main(readme: str) -> None:
    home = Path(captum_ehr.__file__)
    assert "site-packages" in home.parts, f"{home} is not an installation"
    assert distribution("captum-ehr").version == captum_ehr.__version__
    (example,) = re.findall(r"```python\n(.*?)```", Path(readme).read_text(), re.S)
    model, batch = tiny_model()
    explanation = DeepLiftEHR(model).explain(batch)
    assert explanation.delta.abs().max() < 1e-5
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        saved = explanation.save("patients.parquet")
        assert Explanation.load(saved)["p1"]._repr_html_().startswith("<")
        exec(compile(example, readme, "exec"), {})
        assert Path("patient.html").stat().st_size > 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
