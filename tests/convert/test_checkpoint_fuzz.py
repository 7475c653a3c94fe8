"""Whatever lies in a checkpoint ends in weights or in one sentence, never in another exception. Seeded, bounded."""

import argparse
import datetime
import io
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from pecore.convert.checkpoint import Weights, head_size, load
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.text_tower import TextWeights, load_text, synthetic_text, text_config
from pecore.errors import InputError
from pecore.variants import find
from tests.convert import test_state_dict
from tests.convert.test_checkpoint import to_meta

TINY = replace(test_state_dict.TINY, depth=1)
TEXT = replace(text_config(find("T16")), context_length=8, vocab_size=50, width=16, heads=2, layers=1, output_dim=16)
TIMM = synthetic_state_dict(TINY, amplitude=0)
WORDS = {f"text.{key}": tensor for key, tensor in synthetic_text(TEXT, 0).items()} | {"logit_scale": torch.tensor(4.6)}
FORMS = [
    TIMM,
    {f"visual.trunk.{key}": tensor for key, tensor in TIMM.items()} | WORDS,
    to_meta(TIMM) | {key.removeprefix("text."): tensor for key, tensor in WORDS.items()},
]
NAMES = [
    "state_dict",
    "model",
    "ema",
    "model_ema",
    "state_dict_ema",
    "net",
    "",
    "a.b",
    "optimizer",
    "module",
    3,
    ("t",),
]
PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "backbone.",
    "encoder.visual.",
    "visual.",
    "visual.trunk.",
    "ema.",
    ".",
    "..",
    "x",
]
ODD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: 3,
    lambda: "text",
    lambda: b"bytes",
    lambda: [1, {"a": torch.ones(2)}],
    lambda: argparse.Namespace(a={"b": np.float64(2)}),
    lambda: np.arange(4.0),
    lambda: Path("a"),
    lambda: datetime.date(2026, 1, 1),
    lambda: OrderedDict(a=torch.ones(1)),
    lambda: {"blocks.0.x": torch.ones(2), "pos_embed": torch.ones(2)},
    lambda: torch.ones(()),
    lambda: torch.ones(0),
    lambda: torch.ones(2, 3, 4, 5, 6),
    lambda: torch.full((24,), torch.nan),
    lambda: torch.ones(3, dtype=torch.int64),
    lambda: torch.ones(3, dtype=torch.complex64),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.ones(2, device="meta"),
    lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    lambda: torch.nn.Parameter(torch.ones(2)),
    lambda: os_system,
]


def os_system() -> None:
    """A function of nobody's list."""


def a_state(rng: random.Random) -> dict[Any, Any]:
    """One of the three forms under some prefix, perhaps with keys missing, renamed, replaced or added."""
    prefix = "".join(rng.choices(PREFIXES, k=rng.randrange(3)))
    state: dict[Any, Any] = {prefix + key: tensor for key, tensor in rng.choice(FORMS).items()}
    for _ in range(rng.choice([0, 0, 1, 2, 5])):
        key = rng.choice(list(state))
        action = rng.randrange(5)
        if action == 0:
            del state[key]
        elif action == 1:
            state[rng.choice(PREFIXES) + key] = state.pop(key)
        elif action == 2:
            state[key] = rng.choice(ODD)()
        elif action == 3:
            state[rng.choice([*NAMES, "logit_scale", "text.a", "conv1.weight", "pos_embed"])] = rng.choice(ODD)()
        elif isinstance(state[key], torch.Tensor) and state[key].ndim:
            state[key] = state[key][:-1] if rng.random() < 0.5 else state[key][None].clone()
    return state


def nested(rng: random.Random) -> Any:
    """A state dict, or several, inside whatever a script might save."""
    content: Any = a_state(rng) if rng.random() < 0.9 else rng.choice(ODD)()
    for _ in range(rng.randrange(4)):
        content = {rng.choice(NAMES): content}
        for _ in range(rng.randrange(3)):
            content[rng.choice(NAMES)] = a_state(rng) if rng.random() < 0.3 else rng.choice(ODD)()
        if rng.random() < 0.05:
            content["itself"] = content
    return content


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, changed or moved; most of them near the start and end, where formats keep their structure."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        edge = rng.choice([100, 3000, len(data)])
        place = rng.randrange(min(edge, len(data)))
        place = len(data) - 1 - place if rng.random() < 0.5 else place
        data[place] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)


def ends_well(path: Path) -> str:
    """Load vision, text and head from a file; which ended in weights."""
    done, sentences = "", []
    for name, use in (
        ("v", lambda: load(TINY, path)),
        ("w", lambda: load(TINY, path, ema=False)),
        ("t", lambda: load_text(TINY, path, config=TEXT)),
        ("h", lambda: head_size(path)),
    ):
        try:
            made = use()
        except InputError as error:
            sentences.append(str(error))
            continue
        assert isinstance(made, Weights | TextWeights | int)
        done += name
    assert all(str(path) in sentence or str(path.parent) in sentence for sentence in sentences)
    return done


@pytest.mark.parametrize("seed", range(4))
def test_nestings_prefixes_and_odd_types(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    ended = []
    for i in range(40):
        path = tmp_path / f"{i}.pt"
        torch.save(nested(rng), path, _use_new_zipfile_serialization=rng.random() < 0.8)
        ended.append(ends_well(path))
        path.unlink()
    assert any("v" in end for end in ended)  # neither all taken
    assert any("t" in end for end in ended)
    assert "" in ended  # nor all refused


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_and_mutated_files(form: str, tmp_path: Path) -> None:
    rng = random.Random(form)
    contents = []
    for state in FORMS:
        if form == "safetensors":
            contents.append(save({key: tensor.contiguous() for key, tensor in state.items()}))
        else:
            file = io.BytesIO()
            torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=form == "zip")
            contents.append(file.getvalue())
    for i in range(60):
        path = tmp_path / f"{i}.{rng.choice(['pt', 'safetensors', 'bin'])}"
        path.write_bytes(spoilt(rng.choice(contents), rng))
        ends_well(path)
        path.unlink()


def test_bytes_of_any_kind(tmp_path: Path) -> None:
    rng = random.Random(0)
    starts = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", bytes(8) + b"{", b"\x10" + bytes(7) + b'{"a":1}', b"{"]
    for i in range(100):
        path = tmp_path / f"{i}.pt"
        path.write_bytes(rng.choice(starts) + rng.randbytes(rng.choice([0, 1, 50, 500])))
        assert ends_well(path) == ""


def test_indices_and_folders(tmp_path: Path) -> None:
    rng = random.Random(0)
    odd = [None, 3, "a", [], {}, {"a": "x"}, {"a": 3}, {"a": "../x"}, {"a": "model.safetensors"}, {"a": "/etc/passwd"}]
    (tmp_path / "model.safetensors").write_bytes(save(TIMM))
    for _ in range(30):
        index = {rng.choice(["weight_map", "metadata"]): rng.choice(odd) for _ in range(2)}
        path = tmp_path / "m.index.json"
        path.write_text(json.dumps(rng.choice([index, index, *odd])))
        ends_well(path)
        ends_well(tmp_path)
