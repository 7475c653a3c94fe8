"""An install without extras: no PyTorch, no Matplotlib, and everything a bundle is for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, HERE / "make_bundle.py", folder], check=True, capture_output=True)
    return folder


def run(folder: Path, *more: str) -> dict:
    command = [sys.executable, HERE / "exercise.py", folder / "bundle", folder / "pictures", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_without_pytorch(made: Path) -> None:
    sys.path.insert(0, str(HERE))
    from check import check

    found, expected = run(made, "--block"), json.loads((made / "expected.json").read_text())
    check(found, expected)
    with pytest.raises(AssertionError):  # it can fail: another image's embedding
        check({**found, "image": found["text"]}, expected)


def test_the_block_blocks(made: Path) -> None:
    """Without it PyTorch is there, and what the block hides is done."""
    found = run(made)
    assert found["rewrite"] == "imported"
    assert "torch" in found["loaded"]
