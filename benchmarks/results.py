"""Results as JSON, each with the environment in which it was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import captum_ehr

#: Where a full run writes, and where a quick one does.
HOME = Path(__file__).parent / "results"
QUICK = Path("build") / "benchmarks"

PARTS = ("speed", "completeness", "faithfulness")


def environment() -> dict[str, Any]:
    """Versions, processor, threads and date."""
    return {
        "captum_ehr": captum_ehr.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "captum": version("captum"),
        "pyhealth": version("pyhealth"),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def save(part: str, settings: Any, rows: Sequence[Any], folder: Path) -> Path:
    """Write the rows of one part, one dataclass per model.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "part": part,
        "environment": environment(),
        "settings": asdict(settings),
        "rows": [asdict(row) for row in rows],
    }
    path = folder / f"{part}.json"
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
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
    paths = {part: folder / f"{part}.json" for part in PARTS}
    found = {
        part: json.loads(path.read_text())
        for part, path in paths.items()
        if path.exists()
    }
    if not found:
        raise FileNotFoundError(f"No results in {folder}: measure something first.")
    return found
