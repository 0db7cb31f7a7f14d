"""What is named on the command line; light, for it is looked at before all else."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class StartError(Exception):
    """What cannot be shown, in words for the person who asked for it."""


def named(spec: str) -> tuple[str, str]:
    """The module and the function that are named, if there is such a module.

    Nothing is imported, so a slip is found before libraries are loaded for seconds.

    Args:
        spec: ``module:function``; the module is looked for in the working folder too.

    Raises:
        StartError: If no function is named, or there is no such module.

    Example:
        >>> named("math:sqrt")
        ('math', 'sqrt')
        >>> named("math")
        Traceback (most recent call last):
        captum_ehr.insights.study.StartError: 'math' names no function; write
        module:function, e.g. study:show.
    """
    name, _, function = spec.partition(":")
    if not name or not function:
        raise StartError(
            f"{spec!r} names no function; write module:function, e.g. study:show."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if find_spec(name.partition(".")[0]) is None:
        raise _absent(name)
    return name, function


def called(spec: str) -> Any:
    """What a function returns that is named on the command line.

    Args:
        spec: See :func:`named`. The function takes nothing.

    Raises:
        StartError: If there is no such function.
    """
    name, function = named(spec)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        raise _absent(name) from None
    found: Any = module
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise StartError(f"{name} has no function {function!r}.")
    return found()


def model_and_dataset(spec: str) -> tuple[Any, Any]:
    """What a function returns, as :func:`called`, that is to return a pair."""
    study = called(spec)
    if not isinstance(study, tuple) or len(study) != 2:
        raise StartError(
            f"{spec} returned {type(study).__name__}, expected (model, dataset)."
        )
    return study


def _absent(name: str) -> StartError:
    return StartError(
        f"There is no module {name!r} in {Path.cwd()} or the Python environment."
    )
