"""The live page: a Bokeh server on this machine, behind a token.

Bokeh carries the document, the WebSocket and its sessions. In front of it stands a
guard that lets nothing through without the token and the right ``Host`` header, and
Bokeh itself checks the WebSocket's origin and its signed session.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import signal
import threading
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.core.properties import String
from bokeh.document import Document, without_document_lock
from bokeh.model import DataModel
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from markupsafe import Markup
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop

from .answers import answer
from .guard import guarded
from .page import embedded, page_template, policy, shown
from .ports import bound, has_port, is_loopback

if TYPE_CHECKING:
    from .visualizer import AttributionVisualizer

_LOG = logging.getLogger(__name__)
_ANSWERING = "insights-answer"
_LARGEST = 4 * 2**20
"""Bytes of the largest message that a browser may send."""


class Channel(DataModel):
    """What the browser asks and what it is answered, as JSON."""

    question = String("")
    answer = String("")


class Server:
    """A page that is being served; stops with :meth:`stop` or its process.

    Args:
        visualizer: What to show.
        port: The port; 0 for a free one.
        address: The address to listen on.
        hosts: More names that a browser may call it by, see :func:`serve`.
        framed: Whether another page may show it in a frame, see :func:`serve`.

    Raises:
        PortInUseError: If the port is taken.
        ValueError: If there is no such port or address.
    """

    def __init__(
        self,
        visualizer: AttributionVisualizer,
        port: int = 0,
        address: str = "127.0.0.1",
        hosts: Sequence[str] = (),
        framed: bool = False,
    ) -> None:
        self.address = address
        self._framed = framed
        self._named = tuple(hosts)
        self.token = secrets.token_urlsafe(24)
        self._visualizer = visualizer
        self._sockets, self.port = bound(address, port)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None
        self._failed: BaseException | None = None
        # A daemon: it must not keep a process alive whose work is done.
        self._thread = threading.Thread(target=self._run, name="insights", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    @property
    def url(self) -> str:
        """The address to open, with its token."""
        return f"http://{self.hosts[0]}/?token={self.token}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a ``Host`` header may say."""
        names = [self.address]
        if is_loopback(self.address):
            names = ["127.0.0.1", "localhost", "[::1]"]
            names.sort(key=lambda name: name.strip("[]") != self.address)
        elif ":" in self.address:
            names = [f"[{self.address}]"]
        more = (one if has_port(one) else f"{one}:{self.port}" for one in self._named)
        return (*(f"{name}:{self.port}" for name in names), *map(str.lower, more))

    @property
    def is_running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def is_computing(self) -> bool:
        """Whether an answer of any server of this process is still being computed."""
        return any(one.name == _ANSWERING for one in threading.enumerate())

    def stop(self) -> None:
        """Stop serving; open pages say that the connection is lost."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        assert self._loop is not None and self._done is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join(timeout=5)

    def wait(self) -> None:
        """Serve until SIGINT (Ctrl-C), SIGTERM or :meth:`stop`.

        The signals count in the main thread alone, where Python delivers them; their
        handlers are put back afterwards.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        told = threading.Event()
        before = {
            one: signal.signal(one, lambda *_: told.set()) for one in signals if in_main
        }
        try:
            while not told.wait(0.2) and self.is_running:
                pass
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            self.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        """Without the token, which may end in a saved notebook."""
        state = "running" if self.is_running else "stopped"
        return f"<EHR Insights at http://{self.hosts[0]}, {state}>"

    def _run(self) -> None:
        """The thread: a loop of its own, so that any number of servers may run."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failed = error
            _LOG.exception("the server of the page ended")
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        make = partial(_document, self._visualizer, self.hosts)
        site = BokehTornado(
            Application(FunctionHandler(make)),
            extra_websocket_origins=list(self.hosts),
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,
            include_headers=[],
            include_cookies=[],
            websocket_max_message_size_bytes=_LARGEST,
        )
        front = guarded(site, self.token, self.hosts, self._framed)
        http = HTTPServer(front, max_body_size=_LARGEST)
        http.add_sockets(self._sockets)
        server = BaseServer(IOLoop.current(), site, http)
        server.start()
        self._ready.set()
        await self._done.wait()
        http.stop()
        await _hang_up(site)
        server.stop()
        # Bokeh 3.10 cleans up in a task of its own, those before it at once.
        await getattr(server, "wait_until_stopped", _nothing)()


async def _hang_up(site: BokehTornado) -> None:
    """Close all pages' connections while their sessions are still there.

    Bokeh has no public word for it; left open, each would end in a logged error.
    """
    for client in tuple(site._clients):
        handler: Any = client._socket
        handler.close(1001, "stopped")
    for _ in range(20):
        if not site._clients:
            return
        await asyncio.sleep(0.05)


async def _nothing() -> None:
    return None


def serve(
    visualizer: AttributionVisualizer,
    port: int = 0,
    address: str = "127.0.0.1",
    *,
    hosts: Sequence[str] = (),
    framed: bool = False,
    blocking: bool = False,
) -> Server:
    """Serve the page on this machine, in a thread of its own.

    Only who has the address with its token gets in, and by default only from this
    machine. On other addresses than loopback the data travel unencrypted: put a proxy
    with TLS in front, or better an SSH tunnel to loopback.

    Args:
        visualizer: What to show.
        port: The port; 0 for a free one.
        address: The address to listen on.
        hosts: More names that a browser may call it by, ``"name"`` or ``"name:port"``:
            of this machine where it listens on ``0.0.0.0``, of a proxy, or
            ``"localhost:8000"`` for the other end of a tunnel. Requests for any other
            are refused.
        framed: Let another page, a notebook for example, show it in a frame.
        blocking: Return only when it is stopped: by Ctrl-C, SIGTERM, or ``stop()``
            from another thread.

    Returns:
        The running server: ``server.url`` to open, ``server.stop()`` to end it.

    Raises:
        PortInUseError: If the port is taken.

    Example:
        >>> server = serve(visualizer)  # doctest: +SKIP
        >>> server.url  # doctest: +SKIP
        'http://127.0.0.1:43211/?token=...'
    """
    if not is_loopback(address):
        _LOG.warning(
            "EHR Insights listens on %s: others on the network can reach it, and what "
            "they are sent is not encrypted.",
            address,
        )
    visualizer.overview()
    server = Server(visualizer, port, address, hosts, framed)
    if blocking:
        server.wait()
    return server


def _document(
    visualizer: AttributionVisualizer, hosts: tuple[str, ...], doc: Document
) -> None:
    """What one open page has: its markup, its data, and a channel."""
    nonce = secrets.token_urlsafe(16)
    # Policies have no words for IPv6; 'self' then has to do.
    sockets = " ".join(f"ws://{host}" for host in hosts if "[" not in host)
    channel = Channel(name="insights")
    channel.on_change("question", partial(_asked, visualizer, doc, channel))
    doc.add_root(channel)
    doc.title = "EHR Insights"
    doc.template = page_template()
    doc.template_variables.update(
        nonce=nonce,
        policy=policy(nonce, f"'self' {sockets}"),
        page_title=visualizer.title,
        data=embedded({"overview": shown(visualizer.overview())}),
        bokeh=_bokeh(),
    )


def _asked(
    visualizer: AttributionVisualizer,
    doc: Document,
    channel: Channel,
    attribute: str,
    old: str,
    new: str,
) -> None:
    """Answer without holding up the loop: a method may take its time."""

    @without_document_lock
    async def respond() -> None:
        said = await _in_thread(partial(_answered, visualizer, new))
        if doc.session_context is not None and not doc.session_context.destroyed:
            doc.add_next_tick_callback(partial(setattr, channel, "answer", said))

    doc.add_next_tick_callback(respond)


def _answered(visualizer: AttributionVisualizer, question: str) -> str:
    try:
        asked = json.loads(question)
    except json.JSONDecodeError:
        asked = None
    said = answer(visualizer, asked)
    try:
        return json.dumps(said, separators=(",", ":"), allow_nan=False)
    except ValueError:  # no browser reads NaN; what waits for the answer has to end
        words = "The answer has numbers that are none (NaN)."
        return json.dumps({"id": said["id"], "error": words})


async def _in_thread(function: Any) -> Any:
    """A result of a daemon thread.

    One that computes for minutes must not keep the process from ending, as the threads
    of an executor do.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(found: Any) -> None:
        if not future.done():
            future.set_result(found)

    def work() -> None:
        found = function()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=work, name=_ANSWERING, daemon=True).start()
    return await future


@cache
def _bokeh() -> Markup:
    """BokehJS, without its widgets, tables and MathJax."""
    (script,) = Resources(mode="inline", components=["bokeh"]).js_raw[:1]
    return Markup(script)
