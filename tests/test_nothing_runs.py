"""Nothing that is read is run: no pickles, no code, and weights that are none."""

from __future__ import annotations

import ast
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import captum_ehr
from captum_ehr.demo import kept

HEADER = (10).to_bytes(8, "little")
WEIGHTS = {
    "nothing": b"",
    "a huge header": b"\xff" * 8,
    "no JSON": HEADER + b"[" * 10,
    "deep JSON": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "another": save({"weight": torch.ones(2)}),
    "a pickle": pickle.dumps({"weight": [1.0]}),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none_are_not_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(kept.training, "build_model", lambda *_: model)
    path = tmp_path / "model.safetensors"
    kept.keep(model, path)
    cohort: Any = type("Patients", (), {"dataset": None})
    assert kept.kept_model("StageNet", cohort, 0, path) is model
    path.write_bytes(WEIGHTS[name])
    assert kept.kept_model("StageNet", cohort, 0, path) is None


#: What runs what it is given, and who may: a job whose hash was announced, and code
#: that was written down in this process.
RUNS = Counter(
    {
        ("cohort/worker.py", "pickle.loads"): 1,
        ("propagation/program.py", "exec"): 1,
        ("propagation/program.py", "compile"): 1,
        ("propagation/compiling.py", "compile"): 1,
        ("propagation/compiling.py", "eval"): 1,
    }
)
DANGEROUS = frozenset(
    "eval exec compile __import__ pickle.load pickle.loads pickle.Unpickler torch.load "
    "cloudpickle.load cloudpickle.loads marshal.loads dill.loads joblib.load "
    "shelve.open yaml.load yaml.unsafe_load np.load pd.read_pickle os.system os.popen "
    "subprocess.run subprocess.Popen subprocess.call subprocess.check_output".split()
)


def test_the_package_runs_nothing_that_it_reads() -> None:
    root = Path(captum_ehr.__file__).parent
    found = Counter(
        (path.relative_to(root).as_posix(), ast.unparse(node.func))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DANGEROUS
    )
    assert found == RUNS
