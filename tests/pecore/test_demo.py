"""The demo's server: what it serves, to whom, and with which headers."""

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pecore import web_server
from pecore.cli import main
from pecore.errors import InputError
from pecore.server.page import HEADERS, WEB_DEMO, find_site, make_server


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    site, bundle = tmp_path / "site", tmp_path / "bundle"
    for folder in (site, bundle):
        folder.mkdir()
    (site / "index.html").write_text("<p>page")
    (site / "app.js").write_text("1")
    (bundle / "a model.tflite").write_bytes(b"TFL3")
    (bundle / ".hidden").write_text("no")
    (tmp_path / "secret.txt").write_text("no")
    (bundle / "link").symlink_to(tmp_path / "secret.txt")
    return site, bundle


Get = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def get(folders: tuple[Path, Path]) -> Iterator[Get]:
    with make_server(*folders, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

        yield ask
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/", "text/html", b"<p>page"),
        ("/?selftest", "text/html", b"<p>page"),
        ("/app.js", "text/javascript", b"1"),
        ("/bundle/a%20model.tflite", "application/octet-stream", b"TFL3"),
    ],
)
def test_what_is_served(get: Get, path: str, kind: str, body: bytes) -> None:
    status, headers, found = get(path)
    assert (status, found) == (200, body)
    assert headers["Content-type"] == kind
    assert headers.items() >= HEADERS.items()
    assert get(path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    "path",
    [
        "/bundle/",
        "/bundle/nothing",
        "/bundle/.hidden",
        "/bundle/link",
        "/bundle/../../secret.txt",
        "/bundle/..%2f..%2fsecret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "/bundle//etc/passwd",
        "/app.js%00",
    ],
)
def test_what_is_not_served(get: Get, path: str) -> None:
    status, headers, body = get(path)
    assert status == 404
    assert b"no\n" not in body
    assert headers.items() >= HEADERS.items()


def test_for_this_machine_alone(get: Get) -> None:
    assert get("/", Host="evil.example")[0] == 403
    assert get("/", Host="localhost:8008")[0] == 200
    assert get("/", "POST")[0] == 501


def test_a_port_in_use(folders: tuple[Path, Path]) -> None:
    with make_server(*folders, 0) as server, pytest.raises(InputError, match=r"is in use: give another with --port"):
        make_server(*folders, server.server_port)
    with pytest.raises(InputError, match="port 70000 can't be used"):
        make_server(*folders, 70000)


def test_the_page_says_the_same_policy() -> None:
    """For a static host that sends no headers; a page can't forbid frames itself."""
    page = (WEB_DEMO / "site" / "index.html").read_text(encoding="utf-8")
    found = re.search(r'"Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    assert f"{found[1]}; frame-ancestors 'none'" == web_server.CSP
    assert "unsafe-inline" not in page
    assert not re.search(r"""\son\w+=|\sstyle=|<style|<script(?![^>]* src=)|https?://""", page)


def test_everything_the_page_is_made_of_is_kept_offline() -> None:
    site = WEB_DEMO / "site"
    worker = (site / "sw.js").read_text(encoding="utf-8")
    made_of = {p.name for p in site.iterdir() if p.is_file()} - {"index.html", "sw.js"}
    assert made_of == set(re.findall(r"'([\w.]+\.(?:js|css|svg))'", worker))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "web_demo"
    root.mkdir()
    lock = {"packages": {"node_modules/@litertjs/core": {"version": "2.5.3"}}}
    (root / "package-lock.json").write_text(json.dumps(lock))
    return root


def test_the_runtime_is_fetched_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def fetch(command: list[str], folder: Path) -> None:
        ran.append(command[1:])
        version = checkout / "site" / "vendor" / "litert" / "version.js"
        version.parent.mkdir(parents=True, exist_ok=True)
        version.write_text("export const LITERT_VERSION = '2.5.3';\n")

    monkeypatch.setattr(web_server, "_run", fetch)
    monkeypatch.setattr(web_server.shutil, "which", lambda name: f"/bin/{name}")
    said: list[str] = []
    for _ in range(2):
        assert find_site(said.append, checkout) == checkout / "site"
    assert [command[0] for command in ran] == ["ci", "vendor.js"]
    assert said == ["fetching LiteRT.js 2.5.3 with npm (once)"]
    lock = checkout / "package-lock.json"
    lock.write_text(lock.read_text().replace("2.5.3", "2.5.4"))
    find_site(said.append, checkout)
    assert len(said) == 2


def test_no_npm(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"is not here: install Node\.js"):
        find_site(root=checkout)


def test_npm_fails(checkout: Path) -> None:
    with pytest.raises(InputError, match=r"`false ci` failed in .*: run it there"):
        web_server._run(["false", "ci"], checkout)


def test_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from a checkout"):
        find_site(root=tmp_path)


def test_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", str(tmp_path)])
    assert ended.value.code == 2
    assert "is no bundle" in capsys.readouterr().err
