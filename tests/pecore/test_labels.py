import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecore.bundle import Origin, require_same_checkpoint
from pecore.convert.label_embeddings import write_labels
from pecore.convert.text_tower import load_text, text_config
from pecore.errors import InputError
from pecore.files import sha256
from pecore.labels import load_label_set
from pecore.variants import find

B16 = find("B16")
SMALL = replace(text_config(B16), layers=1, width=32, heads=1, output_dim=16)
LABELS = ["cat", "日本の猫", "sea lion"]
VISION = {"kind": "synthetic", "source": "synthetic, seed 0", "synthetic": True, "seed": 0, "fingerprint": "f"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_labels(tmp_path / "b", B16, load_text(B16, "synthetic", config=SMALL), LABELS, ["{}"], config=SMALL)
    return tmp_path / "b"


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def add_vision(manifest: dict[str, Any], **changes: Any) -> None:
    """The least that a vision tower's section holds."""
    image = {"name": "image", "dtype": "float32", "shape": [1, 3, 224, 224]}
    embedding = {"name": "embedding", "dtype": "float32", "shape": [1, 16]}
    rest = {key: {} for key in ("tower_output", "scales", "preprocessing", "self_test")}
    manifest.update(weights=VISION | changes, files={}, input=image, outputs=[embedding], **rest)


def test_what_was_written_is_read(folder: Path) -> None:
    labels = load_label_set(folder)
    assert labels.labels == tuple(LABELS)
    assert labels.embeddings.shape == (3, 16)
    assert labels.embeddings.dtype == np.float32
    assert labels.embeddings.tobytes() == (folder / "text_embeddings.bin").read_bytes()[8:]
    assert (labels.logit_scale, labels.size) == (100, "B16")
    assert labels.about.templates == ["{}"]
    with pytest.raises(ValueError, match="read-only"):
        labels.embeddings[0, 0] = 1


def test_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        load_label_set(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "name": "n", "variant": asdict(B16)}))
    with pytest.raises(InputError, match=r"holds no labels; make some with `pecore labels"):
        load_label_set(tmp_path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(labels={"n": 3}), "labels lacks"),
        (lambda m: m.update(labels=[1]), "its labels is a list"),
        (lambda m: m["labels"].update(n="three"), r"its labels\.n is 'three'"),
        (lambda m: m["labels"].update(files={}), "lists no embeddings or no labels"),
    ],
)
def test_a_damaged_manifest(edit: Callable[[dict[str, Any]], Any], said: str, folder: Path) -> None:
    change(folder, edit)
    with pytest.raises(InputError, match=rf"manifest\.json .*{said}"):
        load_label_set(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        load_label_set(folder)


def rewritten(rows: np.ndarray, n: int | None = None, dim: int | None = None) -> bytes:
    header = np.array([len(rows) if n is None else n, rows.shape[1] if dim is None else dim], "<i4")
    return header.tobytes() + rows.astype("<f4").tobytes()


UNIT = np.eye(3, 16)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (b"\1\0\0", "3 bytes"),
        (rewritten(UNIT)[:-4], "says 3 rows of 16"),
        (rewritten(UNIT, n=-1, dim=-48), "says -1 rows"),
        (rewritten(UNIT, n=2**31 - 1, dim=2**31 - 1), "says 2147483647 rows"),
        (rewritten(UNIT, n=0, dim=16), "says 0 rows"),
        (rewritten(UNIT * np.nan), "NaN or infinity"),
        (rewritten(UNIT * 2), "not L2-normalised"),
        (rewritten(np.eye(2, 16)), "2 rows of 16 and 3 labels"),
        (rewritten(np.eye(3, 8)), "3 rows of 8"),
    ],
)
def test_embeddings_that_do_not_hold(data: bytes, said: str, folder: Path) -> None:
    file = folder / "text_embeddings.bin"
    file.write_bytes(data)
    with pytest.raises(InputError, match="sha256 differs"):
        load_label_set(folder)
    change(folder, lambda m: m["labels"]["files"][file.name].update(sha256=sha256(file)))
    with pytest.raises(InputError, match=said):
        load_label_set(folder)


def test_another_number_of_labels(folder: Path) -> None:
    file = folder / "labels.txt"
    file.write_text("cat\ndog\n")
    change(folder, lambda m: m["labels"]["files"][file.name].update(sha256=sha256(file)))
    with pytest.raises(InputError, match="3 rows of 16 and 2 labels"):
        load_label_set(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"labels\.txt can't be used, it can't be read"):
        load_label_set(folder)


def test_a_bundle_of_the_same_checkpoint(folder: Path) -> None:
    change(folder, add_vision)
    assert len(load_label_set(folder).labels) == 3


def test_another_checkpoint_is_refused_where_they_meet(folder: Path) -> None:
    labels, vision = load_label_set(folder), Origin(**VISION)
    require_same_checkpoint(labels.about.weights, labels.size, vision, "B16", "elsewhere")
    other = replace(vision, seed=1, source="synthetic, seed 1")
    with pytest.raises(InputError, match=r"elsewhere.*from synthetic, seed 1, not from synthetic, seed 0"):
        require_same_checkpoint(labels.about.weights, labels.size, other, "B16", "elsewhere")
    with pytest.raises(InputError, match="of L14, not of B16"):
        require_same_checkpoint(labels.about.weights, labels.size, vision, "L14", "elsewhere")
    change(folder, lambda m: add_vision(m, synthetic=False, kind="timm", source="mine.pt"))
    with pytest.raises(InputError, match=r"from mine\.pt"):
        load_label_set(folder)
