"""What `exercise.py` printed, held against `expected.json`: used by the tests, and by CI on a fresh environment.

python tests/base/check.py FOLDER PRINTED.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

COSINE = 0.9999
"""Of the fp16 file with PyTorch's float32 tower: the weights' rounding; arithmetic differs from CPU to CPU."""


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises AssertionError at the first thing that a base install should have done and did not."""
    for kind in ("image", "text"):
        assert np.dot(found[kind], expected[kind]) > COSINE, kind
    assert len(found["labels"]) == 3
    assert len(found["cosines"]) == 2
    for name in ("classify", "compare", "inspect", "list"):
        assert found[name]["code"] == 0, (name, found[name])
    assert json.loads(found["classify"]["out"])["images"][0]["predictions"][0]["label"] == found["labels"][0]

    gates = json.loads(found["validate"]["out"])["gates"]
    outcomes = {(gate["gate"], gate["outcome"]) for gate in gates}
    assert found["validate"]["code"] == 0, found["validate"]
    assert {("files", "passed"), ("graph", "passed"), ("cpu", "passed"), ("exact", "skipped")} <= outcomes
    assert any("pip install 'pecore-litert[convert]'" in gate["detail"] for gate in gates if gate["gate"] == "exact")

    assert found["convert"]["code"] == 2
    assert found["convert"]["err"].count("error: ") == 1
    assert "pip install 'pecore-litert[convert]'" in found["convert"]["err"]
    assert "Traceback" not in found["convert"]["err"]
    assert found["rewrite"].startswith("ImportError: this needs torch")
    assert found["loaded"] == []


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    check(json.loads(Path(sys.argv[2]).read_text()), json.loads((folder / "expected.json").read_text()))
    print("1 passed, 0 failed")
