"""In front of the page: nothing passes without the token and the right host."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
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
        app: ASGIApp = self._app
        if not self._may_pass(headers, QueryParams(scope["query_string"])):
            words = "Refused: open the address that was printed, with its token.\n"
            app = PlainTextResponse(words, 403, _HANG_UP)
        elif int(headers.get("content-length", 0)) > LARGEST:
            app = PlainTextResponse("Too large.\n", 413, _HANG_UP)
        await app(scope, _limited(receive), send_headed)

    def _may_pass(self, headers: Headers, query: QueryParams) -> bool:
        """Whether the token, the host and the origin are right."""
        tokens = [token.encode() for token in query.getlist("token")]
        origins = [urlsplit(origin).netloc for origin in headers.getlist("origin")]
        hosts = {host.lower() for host in (headers.get("host", ""), *origins)}
        is_known = len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token)
        return is_known and hosts <= self._hosts


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
