"""Results as JSON, each row saved as it is measured, with the environment."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import captum_ehr

#: Where a full run writes, and where a quick one does.
HOME = Path(__file__).parent / "results"
QUICK = Path("build") / "benchmarks"

#: What the numbers depend on.
MEASURED = ("adapter", "attr", "propagation")

_LOG = logging.getLogger(__name__)


def environment() -> dict[str, Any]:
    """Versions, processor and threads."""
    versions = {name: version(name) for name in ("captum", "pyhealth", "shap", "numpy")}
    return {
        "captum_ehr": captum_ehr.__version__,
        "source": source(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "cpu": processor(),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def source() -> str:
    """A fingerprint of the package's code: other code, other numbers."""
    home = Path(captum_ehr.__file__).parent
    digest = hashlib.sha256()
    for part in MEASURED:
        for path in sorted((home / part).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def collect(
    part: str,
    settings: Any,
    jobs: Mapping[str, Callable[[], Any]],
    folder: Path,
    *,
    fresh: bool = False,
) -> Path:
    """Measure what is not there yet, and save after each row.

    Rows that are there are kept if they were measured with the same settings, code and
    environment; else the part starts over.

    Args:
        part: Its name, which the file gets.
        settings: A dataclass.
        jobs: By row, what measures it; gives a dataclass, or None for what is left
            out.
        folder: Where the file is.
        fresh: Measure everything again.

    Returns:
        The file.
    """
    path = folder / f"{part}.json"
    head = json.loads(
        json.dumps(
            {
                "part": part,
                "environment": environment(),
                "settings": asdict(settings),
            },
            default=lambda path: path.name,  # of a folder: where it lies is nobody's
        )
    )
    rows = _kept(path, head) if jobs and not fresh else {}
    missing = [name for name in jobs if name not in rows]
    with tqdm(missing, desc=part, disable=not missing) as progress:
        for name in progress:
            progress.set_postfix_str(name)
            rows[name] = {"row": name, **asdict(jobs[name]())}
            found = [rows[each] for each in jobs if each in rows]
            _write(path, {**head, "rows": found})
    return path


def load_part(part: str, folder: Path) -> dict[str, Any]:
    """One part that was measured.

    Raises:
        FileNotFoundError: If it was not.
    """
    found: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return found


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The parts that were measured, by name.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = {path.stem: load_part(path.stem, folder) for path in folder.glob("*.json")}
    if not found:
        raise FileNotFoundError(f"No results in {folder}: measure something first.")
    return found


def _kept(path: Path, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of an interrupted run, by name."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    other = [key for key, value in head.items() if found.get(key) != value]
    if other:
        _LOG.warning("%s is of other %s: started over", path, " and ".join(other))
        return {}
    return {row["row"]: row for row in found["rows"]}


def _write(path: Path, found: Mapping[str, Any]) -> None:
    """At once: an interrupted run leaves the last file or the next, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    half.replace(path)
