"""The tower in what training scripts save around it: found by its keys, taken where it is the only one, and said."""

import argparse
import datetime
import json
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pecore.convert.checkpoint import head_size, load
from pecore.convert.fingerprint import fingerprint
from pecore.convert.load import bundle_weights
from pecore.convert.synthetic import synthetic_state_dict
from pecore.errors import InputError
from pecore.variants import find
from tests.convert.test_checkpoint import to_meta

TINY = replace(
    find("T16"),
    depth=2,
    image_size=32,
    width=24,
    heads=3,
    mlp_width=48,
    embedding_dim=16,
    pool_heads=3,
    trained_size=None,
)
StateDict = dict[str, torch.Tensor]
A, B = (synthetic_state_dict(TINY, seed, amplitude=0) for seed in (1, 2))


def under(prefix: str, state: StateDict) -> StateDict:
    return {prefix + key: tensor for key, tensor in state.items()}


def seed_of(path: Path, **options: Any) -> int:
    """Which of A and B `load` takes from a file."""
    taken = load(TINY, path, **options).state_dict
    assert taken.keys() == A.keys()
    found = [seed for seed, state in ((1, A), (2, B)) if all(torch.equal(taken[key], state[key]) for key in state)]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "c.pt")
        return tmp_path / "c.pt"

    return save


OPENCLIP = under("visual.trunk.", A)
META = to_meta(A)


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3, "model_state_dict": A},
        {"net": A},
        {"weights": A},
        {"a": {"b": {"c": {"d": A}}}},
        {"model": A, "state_dict": A},  # two names of one thing
        {"model": A, "state_dict": {key: tensor.clone() for key, tensor in A.items()}},
        {"model": A, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}},
        under("_orig_mod.", A),
        under("model.", A),
        under("backbone.", A),
        under("module.", A),
        under("encoder.visual.", A),
        under("module._orig_mod.student.", A),
        {"state_dict": under("model.backbone.", A)},
        {key.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): t for key, t in A.items()},
        under("_fsdp_wrapped_module.", A),
        under("model.", A) | {"decoder.blocks.0.attn.qkv.weight": torch.ones(2), "decoder.pos_embed": torch.ones(2)},
        under("model.", A) | {"criterion.weight": torch.ones(3)},
        OPENCLIP,
        under("clip.", OPENCLIP) | {"logit_bias": torch.ones(1)},
        {"model": under("module.", META)},
        under("clip_model.", META),
        under("image_encoder.", {key.removeprefix("visual."): t for key, t in META.items()}),
        A | {"epoch": 3, "name": "pe"},
    ],
    ids=lambda content: next(iter(content)),
)
def test_wrappers_and_prefixes_of_any_name(content: Any, save: Callable[[Any], Path]) -> None:
    path = save(content)
    expected = A | {"head.bias": torch.zeros(16)} if any("conv1" in k for k in str(content).split("'")) else A
    taken = load(TINY, path).state_dict
    assert taken.keys() == expected.keys()
    assert all(torch.equal(taken[key], tensor) for key, tensor in expected.items())
    assert head_size(path) == 16


def test_what_was_taken_is_said(save: Callable[[Any], Path]) -> None:
    lines: list[str] = []
    path = save({"epoch": 3, "net": under("backbone.", A) | {"fc.weight": torch.ones(2)}})
    weights = load(TINY, path, log=lines.append)
    assert weights.taken == "took net, keys that begin with backbone.; left out fc.weight"
    assert lines == [f"of {path}: {weights.taken}"]
    assert weights.origin().taken == weights.taken  # and so in manifest and report
    save_file(A, path)
    assert load(TINY, path, log=lines.append).taken == ""  # where there was no choice there is nothing to say
    assert len(lines) == 1


EMA = [
    {"state_dict": A, "state_dict_ema": B},
    {"model": A, "model_ema": B},
    {"model": A, "ema": under("module.", B) | {"n_averaged": torch.tensor(7)}},
    {"state_dict": under("model.", A) | under("ema_model.module.", B)},
    {"model": A, "swa": under("module.", B) | {"n_averaged": torch.tensor(7)}},
]


@pytest.mark.parametrize("content", EMA, ids=lambda content: "+".join(content))
def test_averaged_weights_are_taken_as_timm_does(content: Any, save: Callable[[Any], Path]) -> None:
    path = save(content)
    assert seed_of(path) == 2
    assert seed_of(path, ema=False) == 1
    assert "averaged (EMA) weights, and not" in load(TINY, path).taken
    assert "--no-ema takes the others" in load(TINY, path).taken
    assert "without EMA" in load(TINY, path, ema=False).taken


def test_timm_takes_the_same(save: Callable[[Any], Path]) -> None:
    from timm.models import load_state_dict

    path = save({"state_dict": A, "state_dict_ema": B})
    for ema in (True, False):
        theirs = load_state_dict(str(path), use_ema=ema)
        ours = load(TINY, path, ema=ema).state_dict
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


@pytest.mark.parametrize("content", [{"state_dict_ema": B}, under("module.", B) | {"n_averaged": torch.tensor(9)}])
def test_averaged_weights_alone(content: Any, save: Callable[[Any], Path]) -> None:
    path = save(content)
    assert seed_of(path) == 2
    assert "averaged (EMA) weights, the only ones" in load(TINY, path).taken
    with pytest.raises(InputError, match=r"holds averaged .EMA. weights alone, in .*: leave out --no-ema"):
        load(TINY, path, ema=False)


@pytest.mark.parametrize("ema", [True, False])
def test_a_bundle_s_weights_are_found_again(ema: bool, save: Callable[[Any], Path]) -> None:
    """Whichever were taken: the bundle's fingerprint tells."""
    path = save({"state_dict": A, "state_dict_ema": B})
    made = load(TINY, path, ema=ema)
    bundle: Any = SimpleNamespace(variant=TINY, folder=Path("b"), vision=SimpleNamespace(weights=made.origin()))
    assert fingerprint(bundle_weights(bundle).state_dict) == fingerprint(made.state_dict)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"student": A, "teacher": B}, "student and in teacher"),
        ({"state_dict": under("student.", A) | under("teacher.", B)}, "student. and in state_dict"),
        ({"student_ema": A, "teacher_ema": B}, "student_ema and in teacher_ema"),
        (A | under("teacher.", B), "the top of the file and in keys that begin with teacher."),
    ],
)
def test_of_several_towers_none_is_guessed(content: Any, places: str, save: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=r"holds 2 vision towers, in .*: save the one you mean in a file") as raised:
        load(TINY, save(content))
    assert places in str(raised.value)


def test_extra_keys_are_called_that(save: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=r"\(fc_norm\.weight is unknown\): these are extra keys") as raised:
        load(TINY, save(A | {"fc_norm.weight": torch.ones(24)}))
    assert "pass PE-Core" not in str(raised.value)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(16, 24).to_sparse(), r"a sparse tensor \(sparse_coo\) in head\.weight: save it dense"),
        (torch.eye(16, 24).to_sparse_csr(), r"a sparse tensor \(sparse_csr\) in head\.weight"),
        (torch.ones(16, 24, device="meta"), r"no values for head\.weight, only its shape"),
        (
            torch.quantize_per_tensor(torch.ones(16, 24), 0.1, 0, torch.qint8),
            r"torch\.qint8 in head\.weight.*quantized",
        ),
        (
            torch.ones(16, 24, dtype=torch.int8),
            r"torch\.int8 in head\.weight: pass a checkpoint that was not quantized",
        ),
        (torch.ones(16, 24, dtype=torch.float8_e4m3fn), r"torch\.float8_e4m3fn in head\.weight"),
        (torch.ones(16, 24, dtype=torch.complex64), r"torch\.complex64 in head\.weight"),
        (torch.ones(16, 24, dtype=torch.bool), r"torch\.bool in head\.weight"),
    ],
    ids=lambda value: "" if isinstance(value, str) else f"{value.layout} {value.dtype} {value.device}",
)
def test_tensors_that_are_not_plain_values(tensor: torch.Tensor, said: str, save: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=said):
        load(TINY, save({"state_dict": A | {"head.weight": tensor}}))


LORA = {f"base_model.model.blocks.0.attn.qkv.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
MERGED_NOT = {key.replace("blocks.0.attn.qkv.", "blocks.0.attn.qkv.base_layer."): t for key, t in A.items()}


@pytest.mark.parametrize("content", [LORA, A | LORA, MERGED_NOT, {"state_dict": MERGED_NOT}])
def test_an_adapter_has_to_be_merged_first(content: StateDict, save: Callable[[Any], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a LoRA adapter, .*: merge it first"):
        load(TINY, save(content))
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    save_file(LORA, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="is a LoRA adapter"):
        load(TINY, folder)


# What lies beside the weights


class Ran:
    """What a pickle must not do."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.witness,)


HARMLESS = {
    "args": argparse.Namespace(lr=np.float64(0.1), out=Path("runs"), extra=SimpleNamespace(a=1)),
    "metric": np.float64(81.5),
    "best": np.float32(0.5),
    "epoch": np.int64(3),
    "flag": np.bool_(True),
    "history": np.arange(6.0).reshape(2, 3),
    "path": PurePosixPath("a/b"),
    "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "took": datetime.timedelta(seconds=2),
    "counts": defaultdict(list, {"a": [1]}),
    "recent": deque([1, 2], maxlen=3),
    "money": Decimal("1.5"),
    "names": {"a", "b"},
    "fixed": frozenset({Path("a")}),
    "state": OrderedDict(a=1),
    "range": range(3),
    "complex": 1j,
    "device": torch.device("cpu"),
    "dtype": torch.float16,
}


@pytest.mark.parametrize("legacy", [False, True])
def test_timm_s_model_best(legacy: bool, tmp_path: Path) -> None:
    """As timm's CheckpointSaver writes it, and every harmless type that scripts leave beside the weights."""
    path = tmp_path / "model_best.pth.tar"
    content = {"arch": "vit_pe", "state_dict": A, "state_dict_ema": B, **HARMLESS}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert seed_of(path) == 2
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        torch.load(path, weights_only=True)  # what PyTorch itself refuses of it


@pytest.mark.parametrize("name", HARMLESS)
def test_each_harmless_type(name: str, save: Callable[[Any], Path]) -> None:
    assert seed_of(save({"model": A, name: HARMLESS[name]})) == 1


def test_code_beside_the_weights_is_refused_and_not_run(save: Callable[[Any], Path], tmp_path: Path) -> None:
    path = save({"state_dict": A, "args": argparse.Namespace(hook=Ran(tmp_path / "ran"))})
    with pytest.raises(InputError, match=r"is refused because it pickles .*getattr.* could run code"):
        load(TINY, path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # the trap does spring when it is trodden on
    assert (tmp_path / "ran").exists()


def test_stand_ins_do_not_stay_allowed(save: Callable[[Any], Path]) -> None:
    before = torch.serialization.get_safe_globals()
    assert seed_of(save({"model": A, "args": argparse.Namespace()})) == 1
    assert set(map(str, torch.serialization.get_safe_globals())) == set(map(str, before))


# Shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder as transformers and others write it."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    keys = list(A)
    parts = {f"model-0000{i}-of-00002.safetensors": keys[i - 1 :: 2] for i in (1, 2)}
    for name, some in parts.items():
        save_file({key: A[key] for key in some}, folder / name)
    index = {"metadata": {}, "weight_map": {key: name for name, some in parts.items() for key in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_by_folder_or_index(shards: Path) -> None:
    assert seed_of(shards) == seed_of(shards / "model.safetensors.index.json") == 1
    whole = load(TINY, shards)
    (shards / "model.safetensors.index.json").unlink()
    assert seed_of(shards) == 1  # the names say it as well
    assert load(TINY, shards).sha256 == whole.sha256
    assert whole.sha256 is not None


def test_one_shard_is_called_that(shards: Path) -> None:
    with pytest.raises(InputError, match=r"-00002\.safetensors is a shard of 2: pass the folder"):
        load(TINY, shards / "model-00001-of-00002.safetensors")


def test_what_is_no_whole_set_of_shards(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    (shards / "model-00002-of-00002.safetensors").rename(shards.parent / "gone")
    with pytest.raises(InputError, match=r"of 2 shards and lacks model-00002-of-00002\.safetensors: download"):
        load(TINY, shards)
    for content in (
        "{}",
        "[]",
        "no json",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../b"}}',
        '{"weight_map": {"a": 1}}',
    ):
        index.write_text(content)
        with pytest.raises(InputError, match="is no index of shards"):
            load(TINY, index)
    index.unlink()
    with pytest.raises(InputError, match="is a shard of 2"):
        load(TINY, shards)


def test_a_folder_with_one_checkpoint_or_several(tmp_path: Path) -> None:
    save_file(A, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert seed_of(tmp_path) == 1
    torch.save(A, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"is a folder with model\.safetensors, other\.pt: pass the checkpoint file"):
        load(TINY, tmp_path)
    (tmp_path / "0.distcp").touch()
    with pytest.raises(InputError, match="dcp_to_torch"):
        load(TINY, tmp_path)


def test_programs_and_other_archives(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "s.pt")
    np.savez(tmp_path / "n.npz", **{key: tensor.numpy() for key, tensor in A.items()})
    for name, said in (("s.pt", "TorchScript program.*state_dict"), ("n.npz", "zip archive that torch.save did not")):
        with pytest.raises(InputError, match=said):
            load(TINY, tmp_path / name)
