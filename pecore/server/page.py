"""The web page and a bundle, served to this machine alone."""

import errno
import http.server
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pecore.errors import InputError

WEB_DEMO = Path(__file__).parents[2] / "web_demo"
ADDRESS = "127.0.0.1"
BUNDLE_PATH = "bundle/"
CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    # These two let the page use threads (SharedArrayBuffer).
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"} | {
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".txt": "text/plain",
    "": "application/octet-stream",
}


def find_site(log: Callable[[str], None] = print, root: Path = WEB_DEMO) -> Path:
    """The page's folder, with LiteRT.js in it, which npm fetches the first time.

    Raises:
        InputError: this is not a checkout, npm is missing, or it failed.
    """
    if not (root / "package-lock.json").is_file():
        raise InputError(
            f"the web page is not here ({root} has none): it is part of the repository, not of the installed package; "
            "run `pecore serve` from a checkout installed with `pip install -e .`"
        )
    site = root / "site"
    version_file = site / "vendor" / "litert" / "version.js"
    lock = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))
    wanted = lock["packages"]["node_modules/@litertjs/core"]["version"]
    if not version_file.is_file() or wanted not in version_file.read_text(encoding="utf-8"):
        npm, node = shutil.which("npm"), shutil.which("node")
        if not npm or not node:
            raise InputError(
                "the page needs LiteRT.js, and npm, which fetches it, is not here: install Node.js 20 or newer"
            )
        log(f"fetching LiteRT.js {wanted} with npm (once)")
        _run([npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], root)
        _run([node, "vendor.js"], root)
    return site


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (
            [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines() or ["?"]
        )
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise InputError(f"`{name}` failed in {folder} ({said[0].strip()}): run it there to see why")


def make_server(site: Path, bundle: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server, not started yet, of the page in `site` at / and of the files in `bundle` at /bundle/, on the loopback
    interface; port 0 is any free one.

    Raises:
        InputError: the port is taken, or not to be had.
    """
    handler = partial(_Handler, site=site.resolve(), bundle=bundle.resolve())
    try:
        return http.server.ThreadingHTTPServer((ADDRESS, port), handler)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "is in use" if taken else f"can't be used ({error})"
        raise InputError(f"port {port} {why}: give another with --port, or --port 0 for any free one") from error


class _Handler(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of plain files, with `HEADERS` on every answer."""

    server_version = "pecore"
    sys_version = ""
    extensions_map = TYPES

    def __init__(self, *args: Any, site: Path, bundle: Path) -> None:
        self.site, self.bundle = site, bundle
        super().__init__(*args)

    def send_head(self) -> Any:
        # Another site's page can make its own name point here: it is told apart by the name it asks for.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (ADDRESS, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN, "This server is for 127.0.0.1 alone")
        if self._file() is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        return super().send_head()

    def translate_path(self, path: str) -> str:
        return str(self._file() or "")

    def _file(self) -> Path | None:
        """The file that is asked for, where it is one that is served."""
        path = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
        root = self.site
        if path.startswith(BUNDLE_PATH):
            root, path = self.bundle, path.removeprefix(BUNDLE_PATH)
        if "\0" in path or any(part.startswith(".") for part in Path(path).parts):
            return None
        file = (root / path).resolve()
        return file if file.is_relative_to(root) and file.is_file() else None

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal has the address on it."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        try:
            super().copyfile(source, outputfile)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser left
