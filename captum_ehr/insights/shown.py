"""Patients to look at, and the page of them: as a file, served, in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .viewer import Viewer

if TYPE_CHECKING:
    from .server import Server


class ShownViewer(Viewer):
    """A viewer that shows its page; what that needs is loaded when it is shown."""

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML page; see :func:`captum_ehr.insights.save`."""
        from .page import save

        return save(self, path, **options)

    def serve(self, **options: Any) -> Server:
        """Serve the page on this machine; see :func:`captum_ehr.insights.serve`."""
        from .server import serve

        return serve(self, **options)

    def render(self, **options: Any) -> Any:
        """Show the page in a notebook; see :func:`captum_ehr.insights.render`."""
        from .inline_frame import render

        return render(self, **options)
