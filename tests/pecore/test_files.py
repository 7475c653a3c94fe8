"""Files that are whole or not there, and JSON that every reader takes."""

import hashlib
import json
from pathlib import Path

from pecore.files import sha256, write_json


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights" * 100_000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"weights" * 100_000).hexdigest()


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "j", {"label": "café", "figures": [float("nan"), {"a": float("-inf")}, 0.5]})
    text = (tmp_path / "j").read_text("utf-8")
    assert "café" in text
    assert "NaN" not in text  # no JSON: other parsers choke on it
    assert json.loads(text) == {"label": "café", "figures": [None, {"a": "-inf"}, 0.5]}
