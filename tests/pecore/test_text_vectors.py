"""The tokens that the Kotlin and JavaScript tests read, against open_clip and against the script that writes them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest

from pecore.bundle import Bundle, read_manifest
from pecore.text import open_text_encoder
from pecore.tokenizer import clean, read_tokenizer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "vectors" / "text"
VECTORS: dict[str, Any] = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
CASES = VECTORS["cases"]
TEXTS = [case["text"] for case in CASES]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_text_vectors", ROOT / "scripts" / "write_text_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_500_texts_have_open_clips_ids() -> None:
    assert len(set(TEXTS)) == len(TEXTS) == 500
    padded = np.zeros((len(CASES), VECTORS["context_length"]), np.int64)
    for row, case in zip(padded, CASES):
        row[: len(case["ids"])] = case["ids"]
    theirs = open_clip.get_tokenizer("PE-Core-T-16-384")(TEXTS).numpy()
    assert [text for text, one, two in zip(TEXTS, padded, theirs) if not np.array_equal(one, two)] == []
    assert [case["cleaned"] for case in CASES] == [clean(text) for text in TEXTS]
    assert sum(len(case["ids"]) == VECTORS["context_length"] for case in CASES) > 9  # some are cut


def test_the_tokenizer_beside_them_is_cut_down_but_finds_the_same() -> None:
    tokenizer = read_tokenizer(FOLDER / VECTORS["tokenizer"])
    ids = [[tokenizer.start, *tokenizer.encode(text)[:30], tokenizer.end] for text in TEXTS]
    assert ids == [case["ids"] for case in CASES]


def test_embeddings_are_the_text_tower_s(text_section: Path, writer: ModuleType) -> None:
    rows = np.fromfile(FOLDER / VECTORS["embeddings"], "<f4").reshape(-1, VECTORS["dim"])
    assert len(rows) == len(writer.TEXTS["embedded"])
    encode = open_text_encoder(Bundle(text_section, read_manifest(text_section)), threads=1)
    # Float32 throughout; sums in another order.
    np.testing.assert_allclose(encode(TEXTS[: len(rows)]), rows, rtol=0, atol=1e-5)


def test_the_script_writes_what_is_committed(writer: ModuleType, tmp_path: Path) -> None:
    writer.write(tmp_path / "text", tmp_path / "entities.json")
    assert (tmp_path / "entities.json").read_bytes() == writer.ENTITIES.read_bytes()
    assert {p.name for p in (tmp_path / "text").iterdir()} == {p.name for p in FOLDER.iterdir()} - {"texts.json"}
    for name in ("tokens.json", "tokenizer.json"):
        assert (tmp_path / "text" / name).read_bytes() == (FOLDER / name).read_bytes(), name
    made, stored = (np.fromfile(folder / "embeddings.f32", "<f4") for folder in (tmp_path / "text", FOLDER))
    np.testing.assert_allclose(made, stored, rtol=0, atol=1e-5)  # a forward pass: the machine's own in its last bits
