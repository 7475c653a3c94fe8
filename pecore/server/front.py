"""What happens to every request before and after it is answered: who asks is checked, the headers are set, the answer
is logged and counted, and an exception becomes "Internal error."."""

import ipaddress
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pecore.server.errors import ApiError, shown
from pecore.server.options import ServerOptions
from pecore.server.page import HEADERS

INTERNAL = ApiError(500, "internal", "Internal error.")
GONE = 499
"""The status that is logged for a client that went away."""

log = logging.getLogger("pecore.server")


class JsonAnswer(Response):
    """JSON in ASCII: what a client sent may come back, and need not be encodable in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def refusal(error: ApiError) -> Response:
    """The answer that an error is."""
    return JsonAnswer(error.body, error.status, dict(error.headers))


class Front:
    """The outermost layer, as an ASGI application.

    Args:
        app: what answers.
        count: called with the endpoint's path (or `other`), the status and the seconds, after each answer.
        access: called with one JSON object for each answer; None for no access log.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: ServerOptions,
        count: Callable[[str, int, float], None],
        access: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._app, self._options, self._count, self._access = app, options, count, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Clients that are given an address with a slash at its end add another.
        scope = {**scope, "path": "/" + scope["path"].lstrip("/")}
        started = time.perf_counter()
        sent = {"status": GONE, "bytes": 0}

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            else:
                sent["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            refused = check_caller(Headers(scope=scope), self._options)
            await (refusal(refused) if refused else self._app)(scope, receive, observed)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if sent["status"] == GONE:
                await refusal(INTERNAL)(scope, receive, observed)
        finally:
            self._done(scope, sent, time.perf_counter() - started)

    def _done(self, scope: Scope, sent: dict[str, int], seconds: float) -> None:
        route = scope.get("route")
        self._count(getattr(route, "path", "other"), sent["status"], seconds)
        if self._access:
            client = scope.get("client")
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "client": client[0] if client else None,
            }
            asked = {"method": scope["method"], "path": scope["path"]}  # never the query, which may hold the key
            ms = round(seconds * 1e3, 1)
            self._access({**entry, **asked, "status": sent["status"], "bytes": sent["bytes"], "ms": ms})


def check_caller(headers: Headers, options: ServerOptions) -> ApiError | None:
    """Why a request is refused whatever it asks for; None where it is not.

    Another site's page can have its own name point to this machine (DNS rebinding), or post here from afar; it can't
    hide the name that it asked for, or its own. Where other machines may connect the key keeps such pages out, and the
    names under which this machine is known are not ours to know.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if options.loopback and not names_loopback(host):
        return ApiError(403, "foreign_host", f"this server is for 127.0.0.1 alone, not for {shown(host)}")
    if origin is not None and origin not in options.allow_origins and "*" not in options.allow_origins:
        try:
            own = urlsplit(origin).netloc == host != ""
        except ValueError:
            own = False
        if not own:
            return ApiError(403, "foreign_origin", f"pages of {shown(origin)} may not ask here: see --allow-origin")
    return None


def names_loopback(host: str) -> bool:
    """Whether a host, with a port or without, is this machine's own name for itself."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
