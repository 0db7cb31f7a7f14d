"""Run notebooks: ``python tests/notebooks.py tutorials/*.ipynb`` renews their outputs.

What they read real records from may be named by MIMIC3 and EICU; where it is not, it is
looked for beside the repository.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RECORDS = {"MIMIC3": DATA / "mimic3demo", "EICU": DATA / "eicudemo"}
TIMEOUT = 600


def executed(path: Path, folder: Path) -> Any:
    """A notebook with new outputs, run in a folder; its file stays as it is."""
    notebook: Any = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    found = {name: str(place) for name, place in RECORDS.items() if place.is_dir()}
    env = {**found, **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=env)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    """Run the named notebooks where they are, and keep what they show."""
    for path in tqdm([Path(name) for name in sys.argv[1:]]):
        nbformat.write(executed(path, path.parent), path)


if __name__ == "__main__":
    main()
