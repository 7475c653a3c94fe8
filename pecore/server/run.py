"""A server from start to end: its socket, its signals, its event loop."""

import errno
import ipaddress
import signal
import socket
import warnings
from collections.abc import Callable

import uvicorn
from PIL import Image
from starlette.types import ASGIApp

from pecore.errors import InputError

GRACE_SECONDS = 30
"""For what is under way when the server is told to end."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server on that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 is any free one. It is not listening yet, so nobody waits for a model that loads.

    Raises:
        InputError: no such host, or a port that is in use or can't be used.
    """
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise _no_port(port, "ports go from 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"{host} is no address of this machine ({error}): give an IP address with --host") from error
    out = socket.socket(family, socket.SOCK_STREAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        out.bind(address)
        return out
    except OSError as error:
        out.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use: give another with --port, or --port 0 for any free one"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError(f"{host} is no address of this machine: give one of its own with --host") from error
        raise _no_port(port, error.strerror or str(error)) from error


def _no_port(port: int, why: str) -> InputError:
    return InputError(f"port {port} can't be used ({why}): give another with --port, or --port 0 for any free one")


def address_of(bound: socket.socket) -> str:
    """What to type into a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: ASGIApp, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server, not started yet; `started` is called when requests are answered."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        access_log=False,
        server_header=False,
        log_level="error",
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()


def run(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM: then take no more, finish what is under way, and return. A second Ctrl-C ends at
    once."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is the server's own
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in ends}
    for number in ends:  # uvicorn raises what it caught once more, to the handlers that it found
        signal.signal(number, lambda *caught: None)
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
