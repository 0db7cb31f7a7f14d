"""In front of the page: nothing passes without the token and the right host."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.routing import AnyMatches, Matcher, Rule, RuleRouter
from tornado.web import (
    Application,
    OutputTransform,
    RequestHandler,
    stream_request_body,
)

_LOG = logging.getLogger(__name__)
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


def guarded(
    site: Application, token: str, hosts: Sequence[str], framed: bool
) -> RuleRouter:
    """A site behind a guard; its answers, and the refusals, get headers.

    Args:
        site: The site.
        token: What a request has to know.
        hosts: What its ``Host`` header may say.
        framed: Whether another page may show it in a frame.
    """
    refusal = Application([(".*", _Refusal)])
    headers = _HEADERS if framed else {**_HEADERS, **_UNFRAMED}
    for one in (site, refusal):
        one.add_transform(partial(_Headed, headers))  # type: ignore[arg-type]
        one.settings["log_function"] = _log
    guard = _Guard(token, frozenset(hosts))
    return RuleRouter([Rule(guard, site), Rule(AnyMatches(), refusal)])


class _Guard(Matcher):
    """Lets a request through that has the token and the right host."""

    def __init__(self, token: str, hosts: frozenset[str]) -> None:
        self._token = token.encode()
        self._hosts = hosts

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """An empty dict where it may pass, else None."""
        given = request.query_arguments.get("token", [b""])[-1]
        if request.host.lower() not in self._hosts:
            return None
        return {} if hmac.compare_digest(given, self._token) else None


class _Headed(OutputTransform):
    """Puts headers on whatever is answered, over those of the handler."""

    def __init__(self, headers: Mapping[str, str], request: HTTPServerRequest) -> None:
        self._headers = headers

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Called by Tornado before an answer is sent."""
        for name, value in self._headers.items():
            headers[name] = value
        return status_code, headers, chunk


@stream_request_body
class _Refusal(RequestHandler):
    """Says no, and nothing about why; a body is not waited for."""

    def prepare(self) -> None:
        """Refuse whatever is asked, and hang up."""
        self.set_status(403)
        self.set_header("Connection", "close")
        self.finish("Refused: open the address that was printed, with its token.\n")


def _log(handler: RequestHandler) -> None:
    """Without the query, where the token stands."""
    _LOG.debug("%d %s", handler.get_status(), handler.request.path)
