"""A request's body, off the wire: how large, how slow and how malformed it may be."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from starlette.requests import Request

from pecore.server.errors import ApiError, busy
from pecore.server.options import Limits

DRAIN_SECONDS = 1.0
"""A client that is still sending reads no answer: for so long what it sends is dropped before it is refused."""

MOST_STRINGS = 10_000
MOST_BRACKETS = 500
MOST_ELSE = 2**16
"""Strings, lists and objects, and characters outside of strings that a body may hold: many times what any request
does, and too little to exhaust the memory with small objects, or the stack with nested ones. (Python's own limit of
recursion is not relied on: libraries raise it, and json.loads then ends the process.)"""


class Bodies:
    """Bodies of all the requests that are under way; together they are bounded too."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts as held for as long as the block lasts.

        Raises:
            ApiError: 413 for one that is too large, declared or not; 408 for a slow one; 503 when too many are held.
            ClientDisconnect: the client went away.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self.held += size

        try:
            yield await self._whole(request, hold)
        finally:
            self.held -= held

    async def _whole(self, request: Request, hold: Callable[[int], None]) -> bytes:
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._limits.body:
            await self._refuse(request)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    hold(len(chunk))
                    if len(body) > self._limits.body:
                        await self._refuse(request)
                    if self.held > self._limits.bodies:
                        raise busy("other requests' bodies take all the room there is")
        except TimeoutError as error:
            message = f"the body did not arrive within {self._limits.body_seconds:g} seconds: send a smaller one"
            raise ApiError(408, "body_timeout", message, {"Connection": "close"}) from error
        return bytes(body)

    async def _refuse(self, request: Request) -> NoReturn:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await request.receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass
        limit = self._limits.body
        message = f"the body is larger than {limit / 2**20:g} MiB: send fewer or smaller images"
        raise ApiError(413, "body_too_large", message, {"Connection": "close"})


def parse(body: bytes) -> Any:
    """A body's JSON.

    Raises:
        ApiError: 400, for what is none, or holds text that no UTF-8 can say.
    """
    try:
        text = body.decode()
        if not _is_lean(text):
            raise ApiError(400, "bad_json", "the body is JSON of more parts than any request has")
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair
        return value
    except ValueError as error:
        raise ApiError(400, "bad_json", f"the body is no JSON in UTF-8: {ascii(str(error))[1:-1][:120]}") from error


def _is_lean(text: str) -> bool:
    """Whether JSON is within what is taken, before a parser sees it."""
    pieces = text.replace("\\\\", "").replace('\\"', "").split('"', 2 * MOST_STRINGS)
    outside = "".join(pieces[::2])
    return (
        len(pieces) <= 2 * MOST_STRINGS
        and len(outside) <= MOST_ELSE
        and outside.count("[") + outside.count("{") <= MOST_BRACKETS
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
