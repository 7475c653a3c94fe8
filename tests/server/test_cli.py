"""`pecore serve`: what it refuses to start with."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pecore.cli import main
from pecore.server.run import address_of, is_loopback, open_socket


@pytest.fixture(autouse=True)
def never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts after all fails its test, instead of standing there."""

    def run(*given: object) -> None:
        raise AssertionError("it was not refused")

    monkeypatch.setattr("pecore.server.run.run", run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "give a key with --api-key"),
        (["--host", "::"], "give a key with --api-key"),
        (["--host", "photos.example"], "give a key with --api-key"),
        (["--host", "192.0.2.1", "--api-key", "k"], "192.0.2.1 is no address of this machine"),
        (["--api-key", " "], "--api-key is empty"),
        (["--api-key", "ключ"], "--api-key is empty or not ASCII"),
        (["--api-key", "k", "--open"], "--open shows the page"),
        (["--port", "70000"], "port 70000 can't be used"),
        (["--port", "0", "--index", "nowhere"], "there is no index nowhere"),
        (["--port", "0", "--labels", "nowhere"], "nowhere is no bundle"),
        (["--port", "0", "--weights", "int8"], "has no int8 .tflite"),
        (["--max-batch", "0"], "take 1 or more"),
    ],
)
def test_what_it_refuses(
    server_bundle: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(server_bundle), *options])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error


def test_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(tmp_path)])
    assert ended.value.code == 2
    assert "is no bundle" in capsys.readouterr().err


def test_a_bundle_that_gives_no_embeddings(
    server_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pecore.encoder import PerceptionEncoder

    encoder = PerceptionEncoder(server_bundle, threads=1)
    features = {"features": next(iter(encoder._model.outputs.values()))}
    monkeypatch.setattr("pecore.runtime._specs", lambda details: features if "embedding" in details else {})
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(server_bundle), "--port", "0"])
    assert ended.value.code == 2
    assert "gives features, not embedding" in capsys.readouterr().err


def test_a_port_in_use(server_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(server_bundle), "--port", str(port)])
    assert ended.value.code == 2
    assert f"port {port} is in use: give another with --port" in capsys.readouterr().err


def test_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "photos.example", "")))
    with open_socket("127.0.0.1", 0) as bound:
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}/"


def test_without_the_extra(server_bundle: Path) -> None:
    program = "import sys; sys.modules['starlette'] = None; from pecore.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(server_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert (
        done.stderr == "error: this needs starlette, which is not installed: run `pip install 'pecore-litert[serve]'`\n"
    )
