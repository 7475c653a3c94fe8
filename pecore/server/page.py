"""The web page beside the API, with a bundle's files for it, and LiteRT.js, which runs them in the browser.

The page's own files are in the package. LiteRT.js's WASM is 28 MB, over fifty times the rest of the package, so npm
fetches it the first time, into a cache, and with it Hugging Face's tokenizers.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from pecore.errors import InputError
from pecore.server.errors import ApiError

SITE = Path(__file__).parent / "site"
NPM_FILES = Path(__file__).parent / "litertjs"
VENDOR = "vendor"
WHOLE = "litert/version.js"
"""Of `vendor/`, what is written last."""

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
"""On every answer of the server."""

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"} | {
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".txt": "text/plain",
}


def cache_folder() -> Path:
    """Where this user's programs keep what can be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pecore-litert"


class LiteRtJs:
    """The folder `vendor/` with LiteRT.js: the site's own, where `web_demo/vendor.js` has filled it, or one in the
    cache, which npm fills when it is first asked for."""

    def __init__(self, site: Path = SITE, npm_files: Path = NPM_FILES, cache: Path | None = None) -> None:
        self._site, self._npm_files, self._cache = site, npm_files, cache
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """The one that the page was tested with."""
        return self._locked("@litertjs/core")

    def _locked(self, package: str) -> str:
        lock = json.loads((self._npm_files / "package-lock.json").read_text(encoding="utf-8"))
        return lock["packages"][f"node_modules/{package}"]["version"]

    def folder(self, log: Callable[[str], None] = lambda line: None) -> Path:
        """Where it is; fetched, if it has to be.

        Raises:
            InputError: npm is missing, or failed.
        """
        with self._lock:
            version = self.version
            kept = f"litertjs-{version}-tokenizers-{self._locked('@huggingface/tokenizers')}"
            work = (self._cache or cache_folder()) / kept
            for root in (self._site, work / "site"):
                whole = (root / VENDOR / "tokenizers").is_dir()  # an older `vendor.js` did without
                if whole and version in _content(root / VENDOR / WHOLE):
                    return root / VENDOR
            self._fetch(work, version, log)
            return work / "site" / VENDOR

    def _fetch(self, work: Path, version: str, log: Callable[[str], None]) -> None:
        npm, node = shutil.which("npm"), shutil.which("node")
        if not npm or not node:
            raise InputError(
                "the page needs LiteRT.js, and npm, which fetches it, is not here: install Node.js 20 or newer"
            )
        log(f"fetching LiteRT.js {version} with npm (once)")
        work.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", "vendor.js"):
            shutil.copyfile(self._npm_files / name, work / name)
        _run([npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], work)
        _run([node, "vendor.js"], work)
        shutil.rmtree(work / "node_modules", ignore_errors=True)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = done.stderr.splitlines()
        said = [line for line in said if "error" in line.lower()] or said or ["?"]
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise InputError(f"`{name}` failed in {folder} ({said[0].strip()}): run it there to see why")


def page_routes(bundle: Path, runtime: LiteRtJs, site: Path = SITE) -> list[Route]:
    """The page at `/`, the bundle's files at `/bundle/`, LiteRT.js at `/vendor/`."""
    files = sorted(file.name for file in site.iterdir() if file.is_file() and not file.name.startswith("."))

    async def page(request: Request) -> Response:
        return _file(site, request.url.path.lstrip("/") or "index.html")

    async def of_bundle(request: Request) -> Response:
        return _file(bundle, request.path_params["path"])

    async def of_runtime(request: Request) -> Response:
        try:
            folder = await run_in_threadpool(runtime.folder)
        except InputError as error:
            raise ApiError(503, "no_litertjs", str(error), {"Retry-After": "60"}) from error
        return _file(folder, request.path_params["path"])

    return [
        *(Route(f"/{name}", page) for name in ("", *files)),
        Route("/bundle/{path:path}", of_bundle),
        Route(f"/{VENDOR}/{{path:path}}", of_runtime),
    ]


def _file(root: Path, path: str) -> Response:
    """A file under `root`: no hidden one, none that a link or a path leads to elsewhere."""
    root = root.resolve()
    if "\0" not in path and not any(part.startswith(".") for part in Path(path).parts):
        file = (root / path).resolve()
        if file.is_relative_to(root) and file.is_file():
            return FileResponse(file, media_type=TYPES.get(file.suffix, "application/octet-stream"))
    raise ApiError(404, "not_found", f"there is no {ascii(path)[:100]} here")
