"""Calls as lines of Python, and the function that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class PlanChanged(Exception):
    """A guard: on these numbers the computation might take another way."""


class Program(NamedTuple):
    """What was written down.

    Args:
        run: From tensors of the shapes of the first ones to the outputs.
        calls: How many calls that are.
        guards: How many values have to come out the same.
    """

    run: Callable[..., list[Tensor]]
    calls: int
    guards: int


class Line(NamedTuple):
    """One line: what it gives, how, of what, and whether it does more than that."""

    gives: tuple[str, ...]
    text: str
    reads: tuple[str, ...]
    effect: bool


class Writer:
    """Straight-line code in the making; ``v0``, ``v1``, ... are its variables."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.held: dict[str, Any] = {"Changed": PlanChanged}
        self.count = 0
        self.guards = 0

    def name(self) -> str:
        """A new variable."""
        self.count += 1
        return f"v{self.count - 1}"

    def hold(self, value: Any) -> str:
        """A name for a value that is the same in every run."""
        name = f"c{id(value)}"  # it is held, so that this stays its own
        self.held[name] = value
        return name

    def add(
        self,
        gives: Sequence[str | None],
        text: str,
        reads: Iterable[str],
        *,
        several: bool = False,
        effect: bool = False,
    ) -> None:
        """A line that gives these variables (None: nothing that is wanted)."""
        names = tuple(name for name in gives if name is not None)
        if names:
            left = ", ".join(name or "_" for name in gives)
            text = f"({left},) = {text}" if several else f"{left} = {text}"
        self.lines.append(Line(names, text, tuple(reads), effect))

    def guard(self, expression: str, value: Any, reads: Iterable[str]) -> None:
        """A line that stops the run if something is not what it was."""
        self.guards += 1
        text = f"if {expression} != {self.hold(value)}: raise Changed({expression!r})"
        self.lines.append(Line((), text, tuple(reads), True))

    def program(self, inputs: Sequence[str], results: Sequence[str]) -> Program:
        """Less what nobody reads; memory is let go after its last use."""
        lines = self._of_use(results)
        last = {
            n: k for k, line in enumerate(lines) for n in (*line.gives, *line.reads)
        }
        done: dict[int, list[str]] = {}
        for name, k in last.items():
            if name not in results and name not in self.held:
                done.setdefault(k, []).append(name)
        source = [f"def run({', '.join(inputs)}):"]
        for k, line in enumerate(lines):
            source.append(f" {line.text}")
            if k in done:
                source.append(f" {' = '.join(done[k])} = None")
        source.append(f" return [{', '.join(results)}]")
        space = dict(self.held)
        exec(compile("\n".join(source), "<plan>", "exec"), space)
        return Program(space["run"], len(lines) - self.guards, self.guards)

    def _of_use(self, results: Sequence[str]) -> list[Line]:
        wanted, kept = set(results), []
        for line in reversed(self.lines):
            if line.effect or not wanted.isdisjoint(line.gives):
                wanted.update(line.reads)
                kept.append(line)
        return kept[::-1]
