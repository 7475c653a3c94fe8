"""The page beside the API: which files are served, with which headers, and where LiteRT.js is from."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pecore.errors import InputError
from pecore.server import page
from pecore.server.app import create_app
from pecore.server.page import CSP, HEADERS, NPM_FILES, SITE, LiteRtJs, page_routes

WEB_DEMO = Path(__file__).parents[2] / "web_demo"


@pytest.fixture
def runtime(tmp_path: Path) -> LiteRtJs:
    """In place already."""
    write_vendor(tmp_path / "site" / "vendor", LiteRtJs().version)
    return LiteRtJs(site=tmp_path / "site", cache=tmp_path / "cache")


def write_vendor(folder: Path, version: str) -> None:
    for name in ("litert", "tokenizers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "litert" / "version.js").write_text(f"export const LITERT_VERSION = '{version}';\n")


@pytest.fixture
def client(tmp_path: Path, runtime: LiteRtJs, serve: Callable[..., TestClient]) -> Iterator[TestClient]:
    """A site and a bundle's folder of a few files."""
    site, bundle = tmp_path / "site", tmp_path / "bundle"
    for folder in (site, bundle):
        folder.mkdir(exist_ok=True)
    (site / "index.html").write_text("<p>page")
    (site / "app.js").write_text("1")
    (site / ".hidden").write_text("no")
    (bundle / "a model.tflite").write_bytes(b"TFL3")
    (bundle / ".hidden").write_text("no")
    (tmp_path / "secret.txt").write_text("no")
    (bundle / "link").symlink_to(tmp_path / "secret.txt")
    front: Any = serve().app
    app = front._app
    assert isinstance(app, Starlette)
    app.router.routes += page_routes(bundle, runtime, site)
    with TestClient(front, base_url="http://127.0.0.1:9001") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/", "text/html", b"<p>page"),
        ("/?selftest", "text/html", b"<p>page"),
        ("/app.js", "text/javascript", b"1"),
        ("/bundle/a%20model.tflite", "application/octet-stream", b"TFL3"),
        ("/vendor/litert/version.js", "text/javascript", None),
    ],
)
def test_what_is_served(client: TestClient, path: str, kind: str, body: bytes | None) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert body is None or answer.content == body
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()
    assert client.head(path).content == b""
    assert client.post(path).status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/bundle/",
        "/bundle/nothing",
        "/bundle/.hidden",
        "/.hidden",
        "/bundle/link",
        "/bundle/../../secret.txt",
        "/bundle/..%2f..%2fsecret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/bundle//etc/passwd",
        "/app.js%00",
        "/bundle/%00",
        "/vendor/litert/",
        "/vendor/litert/../../app.js",
    ],
)
def test_what_is_not_served(client: TestClient, path: str) -> None:
    # As it is, not as a client tidies it up.
    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"127.0.0.1")], "query_string": b""}
    from urllib.parse import unquote

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    assert client.portal is not None
    client.portal.call(client.app, scope | {"path": unquote(path), "raw_path": path.encode()}, receive, send)
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"])["error"]["code"] == "not_found"
    assert {(name.lower().encode(), value.encode()) for name, value in HEADERS.items()} <= set(sent[0]["headers"])


def test_the_whole_page(serve: Callable[..., TestClient], runtime: LiteRtJs) -> None:
    """Of the package's own files, and not with a key: the page can't send one."""
    front: Any = serve().app
    service = serve().app_state["service"]
    with TestClient(create_app(service, front._options, runtime), base_url="http://localhost") as client:
        made_of = set(re.findall(r"'([\w.]+\.(?:js|css|svg|json))'", client.get("/sw.js").text))
        assert made_of
        assert all(client.get(f"/{name}").status_code == 200 for name in ["", "index.html", *made_of])
        manifest = client.get("/bundle/manifest.json").json()
        assert all(client.get(f"/bundle/{name}").status_code == 200 for name in manifest["files"])
    assert serve().get("/").status_code == 404


def test_the_page_says_the_same_policy() -> None:
    """For a static host that sends no headers; a page can't forbid frames itself."""
    content = (SITE / "index.html").read_text(encoding="utf-8")
    found = re.search(r'"Content-Security-Policy" content="([^"]*)"', content)
    assert found is not None
    assert f"{found[1]}; frame-ancestors 'none'" == CSP
    assert "unsafe-inline" not in content
    assert not re.search(r"""\son\w+=|\sstyle=|<style|<script(?![^>]* src=)|https?://""", content)


def test_everything_the_page_is_made_of_is_kept_offline() -> None:
    worker = (SITE / "sw.js").read_text(encoding="utf-8")
    made_of = {p.name for p in SITE.iterdir() if p.is_file()} - {"index.html", "sw.js"}
    assert made_of == set(re.findall(r"'([\w.]+\.(?:js|css|svg|json))'", worker))


def test_the_package_has_the_pages_files() -> None:
    for name in ("package.json", "package-lock.json", "vendor.js"):
        assert (NPM_FILES / name).read_bytes() == (WEB_DEMO / name).read_bytes()
    assert (SITE / "app.js").read_bytes() == (WEB_DEMO / "site" / "app.js").read_bytes()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is run in place of npm and node."""
    ran: list[list[str]] = []

    def run(command: list[str], folder: Path) -> None:
        ran.append([Path(command[0]).name, *command[1:2]])
        assert (folder / "package-lock.json").is_file()
        if command[0].endswith("node"):
            lock = json.loads((folder / "package-lock.json").read_text())
            write_vendor(folder / "site" / "vendor", lock["packages"]["node_modules/@litertjs/core"]["version"])

    monkeypatch.setattr(page, "_run", run)
    monkeypatch.setattr(page.shutil, "which", lambda name: f"/bin/{name}")
    return ran


def test_the_runtime_is_fetched_once(tmp_path: Path, fetched: list[list[str]]) -> None:
    npm_files = tmp_path / "npm"
    shutil.copytree(NPM_FILES, npm_files)
    said: list[str] = []
    js = LiteRtJs(tmp_path / "site", npm_files, tmp_path / "cache")
    folders = {js.folder(said.append) for _ in range(2)}
    assert len(folders) == 1
    assert fetched == [["npm", "ci"], ["node", "vendor.js"]]
    assert said == [f"fetching LiteRT.js {js.version} with npm (once)"]
    lock = npm_files / "package-lock.json"
    lock.write_text(lock.read_text().replace(js.version, "99.0.0"))
    assert js.folder(said.append) not in folders
    assert len(said) == 2


def test_the_sites_own_runtime_comes_first(tmp_path: Path, fetched: list[list[str]]) -> None:
    js = LiteRtJs(tmp_path / "site", cache=tmp_path / "cache")
    own = tmp_path / "site" / "vendor"
    write_vendor(own, js.version)
    assert js.folder() == own
    assert not fetched


def test_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"is not here: install Node\.js"):
        LiteRtJs(tmp_path, cache=tmp_path).folder()


def test_npm_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`false ci` failed in .*: run it there"):
        page._run(["false", "ci"], tmp_path)


def test_without_npm_the_api_answers_and_the_page_says_why(
    tmp_path: Path, serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.shutil, "which", lambda name: None)
    front: Any = serve().app
    front._app.router.routes += page_routes(tmp_path, LiteRtJs(tmp_path, cache=tmp_path))
    with TestClient(front, base_url="http://127.0.0.1:9001") as client:
        answer = client.get("/vendor/litert/litert.js")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_litertjs")
        assert "Node.js" in answer.json()["message"]
