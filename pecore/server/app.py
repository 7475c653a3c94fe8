"""The ASGI application: the endpoints, the page, and what every endpoint does with a request."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pecore.server import openapi, roboflow, v1
from pecore.server.bodies import Bodies, parse
from pecore.server.endpoints import Endpoint
from pecore.server.errors import ApiError, busy
from pecore.server.front import GONE, INTERNAL, Front, JsonAnswer, refusal
from pecore.server.metrics import CONTENT_TYPE
from pecore.server.options import ServerOptions
from pecore.server.page import LiteRtJs, page_routes
from pecore.server.schema import problem
from pecore.server.service import Service

T = TypeVar("T")

PARSE_INLINE = 2**18
"""Bytes of JSON that are parsed where they arrive; more holds up everybody's requests for too long."""


def create_app(
    service: Service,
    options: ServerOptions,
    runtime: LiteRtJs | None = None,
    access: Callable[[dict[str, Any]], None] | None = None,
) -> Front:
    """The whole server.

    Args:
        runtime: of the page, which is not served without it.
        access: called with one JSON object for each answer.
    """
    endpoints = [
        *roboflow.endpoints(options.limits, options.clip_alias),
        *v1.endpoints(options.limits, service.dim),
        METRICS,
    ]
    document = openapi.document(endpoints, options, service.model_id)
    answering = _Answering(service, options)

    async def served_document(request: Request) -> Response:
        return JsonAnswer(document)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.workers.close()

    routes = [Route(one.path, answering.route(one), methods=[one.method]) for one in endpoints]
    routes.append(Route(openapi.PATH, served_document))
    if runtime is not None:
        routes += page_routes(service.bundle.folder, runtime)
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[_cors(options.allow_origins)] * bool(options.allow_origins),
        exception_handlers={ApiError: _refused, HTTPException: _unrouted, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return Front(app, options, service.metrics.answered, access)


def _cors(origins: Sequence[str]) -> Middleware:
    headers = ["Authorization", "Content-Type"]
    return Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=headers)


async def _metrics(service: Service, sent: Any) -> Response:
    return Response(service.metrics.page(), headers={"Content-Type": CONTENT_TYPE})


METRICS = Endpoint("GET", "/metrics", _metrics, "What Prometheus reads", None)


class _Answering:
    """From a request to an endpoint's answer: the key, the body, the schema, and the client that goes away."""

    def __init__(self, service: Service, options: ServerOptions) -> None:
        self._service, self._options = service, options
        self._bodies = Bodies(options.limits)
        self._requests = 0

    def route(self, endpoint: Endpoint) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint as Starlette calls it."""

        async def answer(request: Request) -> Response:
            try:
                if endpoint.method == "GET":
                    if not endpoint.public:
                        self._check_key(request, None)
                    return _response(await endpoint.handler(self._service, request.path_params))
                return await self._answer_post(endpoint, request)
            except ClientDisconnect:
                return Response(status_code=GONE)  # for the log: nobody reads it

        return answer

    async def _answer_post(self, endpoint: Endpoint, request: Request) -> Response:
        if self._requests >= 2 * self._options.limits.queue:
            raise busy(f"{self._requests} requests are under way")
        self._requests += 1
        try:
            if _keys(request):
                self._check_key(request, None)  # before the body is taken in
            async with self._bodies.read(request) as body:
                parsed = await self._parse(body) if endpoint.request or body else {}
                self._check_key(request, parsed)
                if endpoint.request and (found := problem(endpoint.request, parsed)):
                    raise ApiError(422, "bad_field", found)
                return _response(await _unless_gone(request, endpoint.handler(self._service, parsed)))
        finally:
            self._requests -= 1

    async def _parse(self, body: bytes) -> Any:
        if len(body) <= PARSE_INLINE:
            return parse(body)
        return await self._service.workers.on_decoder(parse, body)

    def _check_key(self, request: Request, body: Any) -> None:
        """Every key that is given has to be right, and there has to be one; without a key of the server's own, none is
        looked at."""
        key = self._options.api_key
        if key is None:
            return
        given = _keys(request)
        if isinstance(body, dict) and body.get("api_key") is not None:
            given.append(str(body["api_key"]))
        if not given or not all([hmac.compare_digest(_bytes(one), _bytes(key)) for one in given]):
            ways = "Authorization: Bearer KEY, ?api_key=KEY, or api_key in the body"
            what = "this is not the server's API key" if given else "this server demands an API key"
            raise ApiError(401, "invalid_api_key", f"{what}: send it as {ways}", {"WWW-Authenticate": "Bearer"})


def _keys(request: Request) -> list[str]:
    """Keys in the query and in the header."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return request.query_params.getlist("api_key") + [token.strip()] * (scheme.lower() == "bearer")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else JsonAnswer(answer)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is dropped when the client goes away.

    Raises:
        ClientDisconnect: it went away.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refusal(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, or another method."""
    assert isinstance(error, HTTPException)
    where = ascii(request.url.path)[:100]
    if error.status_code == 405:
        message = f"{where} takes no {request.method}"
        return refusal(ApiError(405, "method_not_allowed", message, error.headers or {}))
    return refusal(ApiError(error.status_code, "not_found", f"there is no {where} here: see {openapi.PATH}"))


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours; `Front` logs it."""
    return refusal(INTERNAL)
