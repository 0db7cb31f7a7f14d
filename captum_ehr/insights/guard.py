"""In front of the page: nothing passes without the token and the right host."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 4 * 2**20
"""Bytes of the largest question that a browser may send."""

_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
"""Of every answer: patients stay out of the browser's cache, the token in its page."""

_UNFRAMED: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "frame-ancestors 'none'",
        "X-Frame-Options": "DENY",
    }
)
"""Of every answer where no other page may show it in a frame."""

_HANG_UP: Mapping[str, str] = MappingProxyType({"Connection": "close"})
"""Of refusals: what else is sent is not waited for."""


_REFUSAL = """<!DOCTYPE html>
<meta charset="utf-8">
<title>EHR Insights</title>
<link rel="icon" href="data:,">
<p>Refused: open the address that was printed, with its token.</p>
<script>
(async () => {
  const token = sessionStorage.getItem("token");
  if (location.pathname.endsWith("/") && !location.search && token) {
    const headers = { "X-Insights-Token": token };
    const answer = await fetch(location.pathname, { headers });
    if (!answer.ok) return;
    const page = await answer.text();
    document.open();
    document.write(page);
    document.close();
  }
})();
</script>
"""
"""What who has no token gets: no data, and a way in for a tab that is reloaded.

The page takes the token out of its address, and the browser keeps it for that tab and
this port alone, which a cookie does not. Written into the same document, the page has
the steps of Back that it had.
"""


class Guard:
    """An ASGI application behind a guard; its answers, and the refusals, get headers.

    Starlette's ``TrustedHostMiddleware`` does not know ports, and another port of this
    machine may be another user's.
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: Sequence[str], framed: bool
    ) -> None:
        self._app = app
        self._token = token.encode()
        # Browsers leave a scheme's usual port out.
        self._hosts = {*hosts, *(re.sub(":(80|443)$", "", host) for host in hosts)}
        self._headers = _HEADERS if framed else {**_HEADERS, **_UNFRAMED}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""

        async def send_headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        headers = Headers(scope=scope)
        query = QueryParams(scope["query_string"])
        app: ASGIApp = self._app
        if not self._knows(headers):
            app = PlainTextResponse("Refused.\n", 403, _HANG_UP)
        elif not self._may_pass(headers, query):
            app = HTMLResponse(_REFUSAL, 403, _HANG_UP)
        elif int(headers.get("content-length", 0)) > LARGEST:
            app = PlainTextResponse("Too large.\n", 413, _HANG_UP)
        await app(scope, _limited(receive), send_headed)

    def _may_pass(self, headers: Headers, query: QueryParams) -> bool:
        """Whether the token is right: of the query, or of the page's questions."""
        # Not Authorization, which a proxy in front may have for itself.
        tokens = [*query.getlist("token"), *headers.getlist("x-insights-token")]
        return len(tokens) == 1 and hmac.compare_digest(tokens[0].encode(), self._token)

    def _knows(self, headers: Headers) -> bool:
        """Whether the host and the origin are right."""
        origins = [urlsplit(origin).netloc for origin in headers.getlist("origin")]
        hosts = {host.lower() for host in (headers.get("host", ""), *origins)}
        return hosts <= self._hosts


def _limited(receive: Receive) -> Receive:
    """What is received, up to :data:`LARGEST` bytes, also where no length is told."""
    left = LARGEST

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, headers=_HANG_UP)
        return message

    return receive_limited
