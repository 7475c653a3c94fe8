import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from pecore.convert.checkpoint import CLIP_FILE, VISION_FILE, head_size, load
from pecore.convert.hub import fetch
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tensor_files import read
from pecore.convert.towers import build_tower
from pecore.errors import InputError
from pecore.variants import find, resized

T16 = find("T16")
SMALL = replace(T16, depth=2, image_size=64)
StateDict = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def timm_state() -> StateDict:
    return synthetic_state_dict(SMALL, amplitude=0)


@pytest.fixture(scope="module")
def clip() -> torch.nn.Module:
    """open_clip's own T16 with a text tower of one block."""
    config = open_clip.get_model_config(T16.open_clip_name)
    text = config["text_cfg"] | {"layers": 1, "width": 64, "heads": 1, "vocab_size": 100}
    model = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text).eval()
    model.visual.trunk.load_state_dict(synthetic_state_dict(T16, amplitude=0))
    return model


def to_meta(state: StateDict) -> StateDict:
    """Meta's names and shapes for a tower of timm's, as facebookresearch/perception_models has them."""
    renames = {
        r"^patch_embed\.proj": "conv1",
        r"^cls_token$": "class_embedding",
        r"^pos_embed$": "positional_embedding",
        r"^norm_pre": "ln_pre",
        r"^norm\.": "ln_post.",
        r"^blocks\.(\d+)\.norm": r"transformer.resblocks.\1.ln_",
        r"^blocks\.": "transformer.resblocks.",
        r"attn\.qkv\.": "attn.in_proj_",
        r"attn\.proj": "attn.out_proj",
        r"mlp\.fc1": "mlp.c_fc",
        r"mlp\.fc2": "mlp.c_proj",
        r"^attn_pool\.latent": "attn_pool.probe",
        r"^attn_pool\.norm": "attn_pool.layernorm",
        r"^attn_pool\.proj": "attn_pool.attn.out_proj",
    }
    out: StateDict = {}
    for key, tensor in state.items():
        if key.startswith(("attn_pool.q.", "attn_pool.kv.", "head.")):
            continue
        for pattern, name in renames.items():
            key = re.sub(pattern, name, key)
        tensor = {"class_embedding": tensor.flatten(), "positional_embedding": tensor[0]}.get(key, tensor)
        out[f"visual.{key}"] = tensor.contiguous()
    for part in ("weight", "bias"):
        joined = torch.cat([state[f"attn_pool.q.{part}"], state[f"attn_pool.kv.{part}"]])
        out[f"visual.attn_pool.attn.in_proj_{part}"] = joined
    out["visual.proj"] = state["head.weight"].T.contiguous()
    return out


def assert_same(loaded: object, expected: StateDict) -> None:
    assert isinstance(loaded, dict)
    assert loaded.keys() == expected.keys()
    for key, tensor in expected.items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], tensor), key


def test_timm_safetensors(timm_state: StateDict, tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"  # the name says nothing
    save_file(timm_state, file)
    weights = load(SMALL, file)
    assert_same(weights.state_dict, timm_state)
    assert (weights.kind, weights.source, weights.file) == ("timm", str(file), file)
    assert (weights.logit_scale, weights.has_text, weights.synthetic) == (None, False, False)
    assert weights.sha256 is not None
    assert subprocess.check_output(["sha256sum", file], text=True).startswith(weights.sha256)


def test_open_clip_safetensors(clip: torch.nn.Module, tmp_path: Path) -> None:
    save_file(clip.state_dict(), tmp_path / "c.safetensors")
    weights = load(T16, tmp_path / "c.safetensors")
    assert (weights.kind, weights.has_text) == ("open_clip", True)
    assert weights.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)  # open_clip's initial one, stored as its log
    assert_same(weights.state_dict, dict(clip.visual.trunk.state_dict()))
    image = torch.linspace(-1, 1, 3 * T16.image_size**2).reshape(1, 3, T16.image_size, T16.image_size)
    with torch.no_grad():
        expected = clip.encode_image(image)
        ours = build_tower(T16, weights.state_dict)(image)
    # The same numbers in two modules: their kernels may add in another order, which 12 blocks carry to the sixth digit.
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()
    assert expected.std() > 0.1


@pytest.mark.parametrize("legacy", [False, True])
def test_meta_pt(legacy: bool, timm_state: StateDict, tmp_path: Path) -> None:
    text = {"token_embedding.weight": torch.zeros(3, 4), "logit_scale": torch.tensor(4.6)}
    file = tmp_path / "PE.pt"
    torch.save(to_meta(timm_state) | text, file, _use_new_zipfile_serialization=not legacy)
    weights = load(SMALL, file)
    assert_same(weights.state_dict, timm_state | {"head.bias": torch.zeros(SMALL.embedding_dim)})
    assert (weights.kind, weights.has_text) == ("meta", True)
    assert weights.logit_scale == pytest.approx(np.exp(4.6), rel=1e-6)


def test_meta_vision_only(timm_state: StateDict, tmp_path: Path) -> None:
    torch.save({k.removeprefix("visual."): t for k, t in to_meta(timm_state).items()}, tmp_path / "v.pt")
    weights = load(SMALL, tmp_path / "v.pt")
    assert_same(weights.state_dict, timm_state | {"head.bias": torch.zeros(SMALL.embedding_dim)})
    assert (weights.kind, weights.has_text, weights.logit_scale) == ("meta", False, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, timm_state: StateDict, tmp_path: Path) -> None:
    stored = {key: tensor.to(dtype) for key, tensor in timm_state.items()}
    save_file(stored, tmp_path / "half.safetensors")
    assert_same(load(SMALL, tmp_path / "half.safetensors").state_dict, {k: t.float() for k, t in stored.items()})


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module", "model.state_dict"])
def test_wrapped_and_distributed(wrap: str, timm_state: StateDict, tmp_path: Path) -> None:
    saved: object = {f"module.{key}": tensor for key, tensor in timm_state.items()}
    for key in reversed(wrap.split(".")):
        saved = {"epoch": 3, key: saved}
    torch.save(saved, tmp_path / "w.pt")
    assert_same(load(SMALL, tmp_path / "w.pt").state_dict, timm_state)


def test_synthetic() -> None:
    weights = load(SMALL, "synthetic", seed=3, amplitude=50)
    assert_same(weights.state_dict, synthetic_state_dict(SMALL, 3, 50))
    assert (weights.kind, weights.synthetic, weights.seed, weights.amplitude) == ("synthetic", True, 3, 50)
    assert (weights.file, weights.sha256, weights.logit_scale) == (None, None, 100)


# The hub. It can't be reached from every machine, so its cache and its client are stood in for.


def test_hub(timm_state: StateDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, filename: str) -> str:
        assert (repo, filename) == ("timm/vit_pe_core_tiny_patch16_384.fb", VISION_FILE)
        path = tmp_path / "c0ffee" / filename
        path.parent.mkdir()
        save_file(timm_state, path)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    weights = load(SMALL)
    assert_same(weights.state_dict, timm_state)
    assert weights.kind == "hub"
    assert weights.source == "timm/vit_pe_core_tiny_patch16_384.fb@c0ffee"


@pytest.mark.parametrize("error", [ConnectionError("down"), RuntimeError("HTTP client"), OSError(28, "No space left")])
def test_hub_out_of_reach(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(InputError, match=r"PE-Core-T-16-384.*--checkpoint FILE.*--weights synthetic") as raised:
        fetch(T16.clip_repo, CLIP_FILE)
    assert "\n" not in str(raised.value)


def test_offline_takes_the_cache_or_says_what_to_do(tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads these variables when it is imported."""
    repo = tmp_path / "hub" / "models--timm--vit_pe_core_tiny_patch16_384.fb"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    (repo / "snapshots" / "c0ffee").mkdir(parents=True)
    save_file(synthetic_state_dict(T16), repo / "snapshots" / "c0ffee" / VISION_FILE)
    script = """
from pecore.convert.checkpoint import load
from pecore.variants import find
from pecore.errors import InputError
print(load(find("T16")).source)
try:
    load(find("S16"))
except InputError as error:
    print(error)
"""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_CACHE", None)
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    cached, missing = run.stdout.splitlines()
    assert cached == "timm/vit_pe_core_tiny_patch16_384.fb@c0ffee"
    assert "timm/vit_pe_core_small_patch16_384.fb could not be fetched" in missing
    assert "--checkpoint FILE" in missing
    assert "--weights synthetic" in missing


# What is refused, and how.


def test_another_variant_s_file_is_recognised(tmp_path: Path) -> None:
    save_file(synthetic_state_dict(T16), tmp_path / "t16.safetensors")
    with pytest.raises(InputError) as raised:
        load(find("S16"), tmp_path / "t16.safetensors")
    message = str(raised.value)
    assert "t16.safetensors does not fit S16 (cls_token is [1, 1, 192] instead of [1, 1, 384];" in message
    assert message.endswith("it is T16's, try --size T16")
    assert re.search(r" and \d+ more\)", message)


@pytest.mark.parametrize("kind", ["timm", "open_clip", "meta"])
def test_missing_and_unknown_keys_are_named(kind: str, timm_state: StateDict, tmp_path: Path) -> None:
    state = {
        "timm": timm_state,
        "open_clip": {f"visual.trunk.{key}": tensor for key, tensor in timm_state.items()},
        "meta": to_meta(timm_state),
    }[kind]
    victim = next(key for key in state if key.endswith(("blocks.1.mlp.fc1.bias", "resblocks.1.mlp.c_fc.bias")))
    stray = {"timm": "stray", "open_clip": "visual.stray", "meta": "visual.stray"}[kind]
    save_file({k: t for k, t in state.items() if k != victim} | {stray: torch.ones(1)}, tmp_path / "f")
    with pytest.raises(
        InputError, match=r"blocks\.1\.mlp\.fc1\.bias is missing instead of \[768\]; .*stray is unknown"
    ):
        load(SMALL, tmp_path / "f")


def test_position_table_is_not_resampled(timm_state: StateDict, tmp_path: Path) -> None:
    save_file(timm_state, tmp_path / "f")
    with pytest.raises(InputError, match=r"pos_embed is \[1, 17, 192\] instead of \[1, 37, 192\]\)"):
        load(replace(SMALL, image_size=96), tmp_path / "f")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_tensor_that_is_not_finite_is_named(value: float, timm_state: StateDict, tmp_path: Path) -> None:
    spoilt = {key: tensor.clone() for key, tensor in timm_state.items()}
    spoilt["blocks.1.attn.qkv.weight"][5, 7] = value
    save_file(spoilt, tmp_path / "f")
    with pytest.raises(InputError, match=r"NaN or infinity in blocks\.1\.attn\.qkv\.weight"):
        load(SMALL, tmp_path / "f")


def test_quantized_weights(timm_state: StateDict, tmp_path: Path) -> None:
    save_file(timm_state | {"head.weight": timm_state["head.weight"].to(torch.int8)}, tmp_path / "f")
    with pytest.raises(InputError, match=r"torch\.int8 in head\.weight"):
        load(SMALL, tmp_path / "f")


@pytest.mark.parametrize("scale", [torch.tensor(float("nan")), torch.tensor(1e4), torch.ones(2)])
def test_unusable_logit_scale(scale: torch.Tensor, timm_state: StateDict, tmp_path: Path) -> None:
    torch.save(to_meta(timm_state) | {"logit_scale": scale}, tmp_path / "f")
    with pytest.raises(InputError, match="logit_scale"):
        load(SMALL, tmp_path / "f")


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_pickled_code_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    evil = {"head.bias": Evil(tmp_path / "ran")}
    file = tmp_path / "evil.safetensors"
    if form in ("zip", "legacy"):
        torch.save(evil, file, _use_new_zipfile_serialization=form == "zip")
    else:
        file.write_bytes(pickle.dumps(evil, protocol=int(form[-1])))
    with pytest.raises(InputError, match=r"evil\.safetensors is refused because it pickles (posix\.mkdir|more than)"):
        load(SMALL, file)
    assert not (tmp_path / "ran").exists()
    if form == "zip":
        with file.open("rb") as opened:
            torch.load(opened, weights_only=False)  # the trap does spring when it is trodden on
        assert (tmp_path / "ran").exists()


def test_truncated_files(timm_state: StateDict, tmp_path: Path) -> None:
    save_file(timm_state, tmp_path / "whole.safetensors")
    torch.save(timm_state, tmp_path / "zip.pt")
    torch.save(timm_state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for whole in list(tmp_path.iterdir()):
        content = whole.read_bytes()
        for length in (30, 2000, len(content) // 2, len(content) - 1):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(InputError, match=r"cut is .*(truncated|refused)") as raised:
                load(SMALL, tmp_path / "cut")
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, these are not weights", "neither a safetensors nor a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"\x80\x05garbage garbage garbage", "garbage"),
        (b"PK\x03\x04garbage garbage", "garbage"),
    ],
    ids=["empty", "text", "lfs", "pickle", "zip"],
)
def test_what_is_no_checkpoint(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(SMALL, tmp_path / "garbage")


def test_other_contents(timm_state: StateDict, tmp_path: Path) -> None:
    cases: list[tuple[object, str]] = [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([torch.ones(3)], "holds a list, not a state dict"),
        ({"a": 1}, "its 'a' is a int"),
        ({"text.weight": torch.ones(3)}, r"no PE vision tower, its keys \(text\.weight, "),
        ({}, "no PE vision tower"),
        (to_meta(timm_state) | {"visual.proj": torch.ones(3)}, "not its shapes"),
        (timm_state | {"module.head.bias": timm_state["head.bias"]}, r"module\.head\.bias with and without"),
    ]
    for content, message in cases:
        for name in ("f.pt", "f.safetensors"):  # the name says nothing
            torch.save(content, tmp_path / name)
            with pytest.raises(InputError, match=message):
                load(SMALL, tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint nowhere"):
        load(SMALL, "nowhere")
    with pytest.raises(InputError, match="is a folder"):
        load(SMALL, tmp_path)


def test_read_gives_what_is_stored(tmp_path: Path) -> None:
    stored = {"text.a": torch.ones(2, dtype=torch.float16), "logit_scale": torch.tensor(4.6)}
    save_file(stored, tmp_path / "f")
    held, files = read(tmp_path / "f")
    assert files == [tmp_path / "f"]
    assert {k: (t.dtype, t.tolist()) for k, t in held.items()} == {
        k: (t.dtype, t.tolist()) for k, t in load_file(tmp_path / "f").items()
    }


def test_another_head_and_other_positions(tmp_path: Path) -> None:
    """A fine-tuned checkpoint: its own classes, and positions for another image size."""
    tuned = replace(SMALL, embedding_dim=7)
    path = tmp_path / "tuned.safetensors"
    save_file(synthetic_state_dict(tuned), path)
    assert head_size(path) == 7
    assert load(tuned, path).state_dict["head.weight"].shape == (7, 192)
    with pytest.raises(InputError, match=r"number of classes, try --timm-model vit_pe_core_tiny_patch16_384$"):
        load(SMALL, path)
    larger = resized(SMALL, 96)
    save_file(synthetic_state_dict(SMALL), tmp_path / "64.safetensors")
    save_file(synthetic_state_dict(replace(SMALL, image_size=96)), tmp_path / "96.safetensors")
    for name, tokens in (("64", 17), ("96", 37)):  # the trained size, to be interpolated, and the size itself
        weights = load(larger, tmp_path / f"{name}.safetensors")
        assert weights.state_dict["pos_embed"].shape[1] == tokens
        assert build_tower(larger, weights.state_dict).pos_embed.shape[1] == 37
    with pytest.raises(InputError, match="it is for images of 96 pixels, try --image-size 96"):
        load(SMALL, tmp_path / "96.safetensors")


def test_headless_towers_from_meta_s_keys(tmp_path: Path) -> None:
    small = replace(find("lang-L14"), depth=2, image_size=28, width=96, heads=3, mlp_width=200)
    state = synthetic_state_dict(small)
    renames = {"blocks.": "transformer.resblocks.", "gamma_1": "ls_1.gamma", "gamma_2": "ls_2.gamma"}
    renames |= {"qkv.": "in_proj_", "attn.proj": "attn.out_proj", "fc1": "c_fc", "fc2": "c_proj", "norm_pre": "ln_pre"}
    renames |= {".norm": ".ln_", "patch_embed.proj": "conv1", "cls_token": "class_embedding"}
    renames |= {"pos_embed": "positional_embedding"}
    meta = {}
    for key, tensor in state.items():
        for ours, theirs in renames.items():
            key = key.replace(ours, theirs)
        tensor = {"class_embedding": tensor.flatten(), "positional_embedding": tensor[0]}.get(key, tensor)
        meta[key] = tensor.contiguous()
    save_file(meta, tmp_path / "lang.safetensors")
    weights = load(small, tmp_path / "lang.safetensors")
    assert (weights.kind, weights.logit_scale) == ("meta", None)
    assert_same(weights.state_dict, state)
    assert head_size(tmp_path / "lang.safetensors") == 0
