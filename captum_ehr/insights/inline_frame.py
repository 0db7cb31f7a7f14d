"""The page in a notebook."""

from __future__ import annotations

from html import escape
from typing import Any

from .page import LIMIT, saved
from .server import serve
from .viewer import Viewer


def render(
    visualizer: Viewer,
    *,
    live: bool = True,
    height: int = 900,
    patients: Any = None,
    limit: int = LIMIT,
) -> Any:
    """Show the page below the cell of a notebook.

    Args:
        visualizer: What to show.
        live: Serve it from this kernel, as :func:`captum_ehr.insights.serve` does; it
            ends with the kernel. False puts the page itself into the notebook, which
            then holds the patients' data but needs no kernel, and reaches through
            where the browser cannot reach the kernel's machine.
        height: In pixels.
        patients: Of a page that is not live: places or identifiers.
        limit: Of a page that is not live: the most patients that it may hold.

    Returns:
        The server, or None where it is not live.

    Raises:
        ExportLimitError: If the notebook would hold more patients than ``limit``.
    """
    from IPython.display import HTML, IFrame, display

    if live:
        server = serve(visualizer, framed=True)
        display(IFrame(server.url, width="100%", height=height))
        return server
    rows = visualizer.rows(patients)
    page = saved(visualizer, rows, [visualizer.setting()], limit)
    display(
        HTML(
            f'<iframe srcdoc="{escape(page)}" width="100%" height="{height}" '
            'sandbox="allow-scripts allow-downloads" style="border:0"></iframe>'
        )
    )
    return None
