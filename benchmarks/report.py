"""Tables and figures of what was measured, and their places."""

from __future__ import annotations

from pathlib import Path

from . import captum_table, details, figures, results, table

BEGIN = "<!-- benchmarks: begin -->"
END = "<!-- benchmarks: end -->"


class MarkerError(ValueError):
    """A file has no place for a table."""


def write(folder: Path, home: Path | None) -> None:
    """Make tables and figures, and put them into the README and docs/.

    Args:
        folder: Of the JSON files; the tables are written beside them too.
        home: Of README.md and docs/; None leaves these as they are.

    Raises:
        FileNotFoundError: If nothing was measured.
        MarkerError: If a file has no place for a table.
    """
    found = results.load(folder)
    classes = found.pop("captum_classes", None)
    if found:
        made, all_of_it = table.short(found), peers(found)
        (folder / "table.md").write_text(made)
        (folder / "peers.md").write_text(all_of_it)
        (folder / "details.md").write_text(details.page(found))
        figures.write(found, folder if home is None else home / "docs")
        if home is not None:
            (home / "docs" / "benchmarks.md").write_text(details.page(found))
            insert(home / "README.md", made, BEGIN, END)
            insert(home / "docs" / "benchmarks-peers.md", all_of_it, BEGIN, END)
    if classes is not None:
        made = captum_table.markdown(classes)
        (folder / "captum_classes.md").write_text(made)
        if home is not None:
            place = home / "docs" / "captum.md"
            insert(place, made, captum_table.BEGIN, captum_table.END)


def peers(found: table.Results) -> str:
    """Models and methods, each with all that was measured beside its peers."""
    parts = [table.models(found), table.methods(found), table.where(found) + "\n"]
    return "\n".join(part for part in parts if part)


def insert(path: Path, text: str, begin: str, end: str) -> None:
    """Put a text between its markers.

    Args:
        path: The file.
        text: The text, which ends with a new line.
        begin: The line before it.
        end: The line after it.

    Raises:
        MarkerError: If the file or its markers are not there.
    """
    whole = path.read_text() if path.exists() else ""
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise MarkerError(
            f"{path} has no lines {begin} and {end}; the table goes between them."
        )
    path.write_text(f"{before}{begin}\n{text}{end}{after}")
