"""The live page: a server on this machine, behind a token.

Starlette has the routes, uvicorn the connections; in front of both stands a guard that
lets nothing through without the token and the right ``Host``. The page asks its
questions as JSON; a long one is answered in lines, and computed no further once the
browser hangs up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response, StreamingResponse
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise ImportError(
        f"The served page needs {error.name}, which is not installed: "
        "pip install 'captum-ehr[page]'"
    ) from error

from .api import ANSWERING, answer, as_json, progress
from .guard import Guard
from .page import live_page
from .viewer import Viewer

_LOG = logging.getLogger(__name__)


class PortInUseError(OSError):
    """The port that was asked for is taken."""


class Server:
    """A page that is being served; stops with :meth:`stop` or its process.

    Takes what :func:`serve` takes.

    Raises:
        PortInUseError: If the port is taken.
        ValueError: If there is no such port or address.
    """

    def __init__(
        self,
        visualizer: Viewer,
        port: int = 0,
        address: str = "127.0.0.1",
        hosts: Sequence[str] = (),
        framed: bool = False,
    ) -> None:
        self.address = address
        self.token = secrets.token_urlsafe(24)
        self._named = tuple(hosts)
        self._visualizer = visualizer
        listener = _listener(address, port)
        self.port: int = listener.getsockname()[1]
        # On its level for traces uvicorn logs queries, where the token stands.
        logging.getLogger("uvicorn.asgi").setLevel(logging.DEBUG)
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                Guard(self._site(), self.token, self.hosts, framed),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._stopping = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        # A daemon: it must not keep a process alive whose work is done.
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="insights", daemon=True
        )
        self._thread.start()
        while self._thread.is_alive() and not self._uvicorn.started:
            time.sleep(0.01)
        if not self._uvicorn.started:
            raise RuntimeError("The page's server did not start; the log says why.")

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
        named = (
            name if re.search(r":\d+$", name) else f"{name}:{self.port}"
            for name in self._named
        )
        return (*(f"{name}:{self.port}" for name in names), *map(str.lower, named))

    @property
    def is_running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive() and not self._uvicorn.should_exit

    @property
    def is_computing(self) -> bool:
        """Whether an answer of any server of this process is still being computed."""
        return any(thread.name == ANSWERING for thread in threading.enumerate())

    def stop(self) -> None:
        """Stop serving; open pages say that the connection is lost."""
        if self.is_running:
            self._uvicorn.should_exit = True
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=5)

    def wait(self) -> None:
        """Serve until SIGINT (Ctrl-C), SIGTERM or :meth:`stop`.

        The signals count in the main thread alone, where Python delivers them; their
        handlers are put back afterwards.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        told = threading.Event()
        handlers = {
            number: signal.signal(number, lambda *_: told.set())
            for number in signals
            if in_main
        }
        try:
            while not told.wait(0.2) and self.is_running:
                pass
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.stop()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        """Without the token, which may end in a saved notebook."""
        state = "running" if self.is_running else "stopped"
        return f"<EHR Insights at http://{self.hosts[0]}, {state}>"

    def _run(self, listener: socket.socket) -> None:
        """The thread: a loop of its own, so that any number of servers may run."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._uvicorn.serve([listener]))

    def _site(self) -> Starlette:
        """What there is to ask for."""

        async def page(request: Request) -> Response:
            return HTMLResponse(live_page(self._visualizer))

        async def alive(request: Request) -> Response:
            return Response(status_code=204)

        async def ask(request: Request) -> Response:
            question = await _question(request)
            said = await self._computed(answer, self._visualizer, question)
            return Response(as_json(said), media_type="application/json")

        async def stream(request: Request) -> Response:
            stopped = threading.Event()
            parts = progress(self._visualizer, await _question(request), stopped)

            async def lines() -> AsyncIterator[str]:
                try:
                    while part := await self._computed(next, parts, None):
                        yield as_json(part) + "\n"
                except HTTPException:
                    pass  # the server ends
                finally:
                    stopped.set()

            return StreamingResponse(lines(), media_type="application/x-ndjson")

        return Starlette(
            routes=[
                Route("/", page),
                Route("/alive", alive),
                Route("/ask", ask, methods=["POST"]),
                Route("/stream", stream, methods=["POST"]),
            ]
        )

    async def _computed(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function returns, in a daemon thread: a method may take its time.

        One that computes for minutes must not keep the process from ending, as the
        threads of an executor do.

        Raises:
            HTTPException: If the server stops meanwhile.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name=ANSWERING, daemon=True).start()
        result = asyncio.wrap_future(future)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((result, stopping), return_when="FIRST_COMPLETED")
        finally:
            stopping.cancel()
        if not result.done():
            raise HTTPException(503)
        return result.result()


def serve(
    visualizer: Viewer,
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


def probe(address: str, port: int) -> None:
    """Find out whether an address and port can be had."""
    _listener(address, port).close()


def is_loopback(address: str) -> bool:
    """Whether an address is reached from this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _listener(address: str, port: int) -> socket.socket:
    """A socket that listens."""
    if not 0 <= port <= 65535:
        raise ValueError(f"There is no port {port}; expected 0 (any free) to 65535.")
    try:
        # The lowest family first: IPv4.
        family, _, _, _, place = min(
            socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        )
        return socket.create_server(place, family=family)
    except OSError as error:
        if not port:
            raise
        raise PortInUseError(
            error.errno,
            f"Port {port} of {address} cannot be had ({error.strerror}). Stop what "
            "uses it, give another port, or port 0 for a free one",
        ) from None


async def _question(request: Request) -> Any:
    """What is asked, or None where it is no JSON."""
    try:
        return json.loads(await request.body())
    except ValueError:
        return None
