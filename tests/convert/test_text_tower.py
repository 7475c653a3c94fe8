import copy
import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pecore.bundle import Origin, different_checkpoint
from pecore.convert.checkpoint import CLIP_FILE, load
from pecore.convert.fingerprint import fingerprint
from pecore.convert.pipeline import PROMPTS
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.text_tower import (
    build_text_tower,
    encode_ids,
    load_text,
    synthetic_text,
    text_config,
    token_ids,
)
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.errors import InputError
from pecore.rewrites.text import EndPool, MaskedSoftmax, rewrite_text
from pecore.rewrites.tower import Scales, UnsupportedTowerError
from pecore.validate.text_exactness import max_difference
from pecore.variants import VARIANTS, find, resized

B16 = replace(find("B16"), depth=1, image_size=32)
SMALL = replace(text_config(find("B16")), layers=2, width=64, heads=2)
StateDict = dict[str, torch.Tensor]


def ids_of(texts: Sequence[str]) -> torch.Tensor:
    return token_ids(clip_tokenizer(), texts, 32)


@pytest.fixture(scope="module")
def tower() -> Any:
    return build_text_tower(SMALL, synthetic_text(SMALL, 0))


@pytest.fixture(scope="module")
def both() -> StateDict:
    """open_clip's file: both towers and the logit scale's logarithm."""
    vision = {f"visual.trunk.{k}": t for k, t in synthetic_state_dict(B16, 5).items()}
    text = {f"text.{k}": t for k, t in synthetic_text(SMALL, 5).items()}
    return vision | text | {"logit_scale": torch.tensor(4.6)}


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.open_clip_name], ids=lambda v: v.size)
def test_text_config_is_open_clips(variant: Any) -> None:
    config = text_config(variant)
    assert config.output_dim == variant.embedding_dim
    assert config.context_length == (72 if variant.size == "G14" else 32)
    assert config.vocab_size == 49408


@pytest.mark.parametrize("size", ["B16", "G14"])
def test_tokenizer_is_open_clips(size: str) -> None:
    variant = find(size)
    texts = [*PROMPTS, "<start_of_text> twice", "UPPER  case\n\ttabs &amp; entities", "x" * 500]
    context = text_config(variant).context_length
    ours = token_ids(clip_tokenizer(), texts, context)
    assert torch.equal(ours, open_clip.get_tokenizer(variant.open_clip_name)(texts))
    assert clip_tokenizer().count("") == 2
    assert clip_tokenizer().count("a cat") == 4


def thousand_texts() -> list[str]:
    """Class names, and what breaks tokenizers. Assigned code points alone: what an unassigned one is (a letter, a
    symbol) depends on the Unicode version that a regex engine was built with, and the two have different ones."""
    rng = random.Random(0)
    names = list(open_clip.IMAGENET_CLASSNAMES)
    kinds = json.loads((Path(__file__).parents[1] / "vectors" / "text" / "texts.json").read_text(encoding="utf-8"))
    picked = ["schÃ¶n", "Ã©tÃ© Ã  la mer", *(text for kind in kinds.values() for text in kind)]
    assigned = [chr(i) for i in range(0x20, 0x1FB00) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co", "Cc")]
    texts = names[:500] + picked
    while len(texts) < 1000:
        pieces = rng.choices([*names, *picked], k=rng.randint(1, 2)) + rng.choices(assigned, k=rng.randint(1, 12))
        rng.shuffle(pieces)
        texts.append(rng.choice(["", " "]).join(pieces))
    return texts


def test_a_thousand_texts_have_open_clips_ids() -> None:
    texts = thousand_texts()
    theirs = open_clip.get_tokenizer("PE-Core-B-16")(texts)
    ours = ids_of(texts)
    assert len(texts) == len(ours) == 1000
    assert [text for text, one, two in zip(texts, ours, theirs) if not torch.equal(one, two)] == []


def test_tower_is_open_clips() -> None:
    """Same config, same weights, built by open_clip's own factory."""
    config = open_clip.get_model_config("PE-Core-T-16-384")
    text = config["text_cfg"] | {"layers": 2, "width": 64, "heads": 2}
    model = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], text).eval()
    ids = ids_of(PROMPTS)
    ours = build_text_tower(replace(SMALL, output_dim=config["embed_dim"]), model.text.state_dict())
    with torch.no_grad():
        made, expected = ours(ids), model.encode_text(ids)
    # Two modules: their kernels may add in another order.
    assert (made - expected).abs().max() < 1e-5 * expected.abs().max()


def test_cutting_the_padding_changes_nothing(tower: Any) -> None:
    ids = ids_of(["a photo of a cat.", "a dog", ""])
    with torch.no_grad():
        whole = F.normalize(tower(ids), dim=-1)
    # The same sums without the terms that the mask made 0: what differs is the order that kernels add in.
    assert (encode_ids(tower, ids) - whole).abs().max() < 1e-6
    assert whole.std(0).max() > 1e-3  # the three differ


def test_synthetic_text_is_away_from_neutral(tower: Any) -> None:
    again, other = synthetic_text(SMALL, 0), synthetic_text(SMALL, 1)
    for key, tensor in tower.state_dict().items():
        assert torch.equal(tensor, again[key])
        assert not torch.equal(tensor, other[key])
        assert tensor.std() > 0.01, key
    embeddings = encode_ids(tower, ids_of(PROMPTS))
    cosines = embeddings @ embeddings.T
    assert cosines[~torch.eye(len(PROMPTS), dtype=torch.bool)].max() < 0.99


# Where weights come from


def to_meta(state: StateDict) -> StateDict:
    """Meta's names of the text side, beside a vision tower that is kept in open_clip's names for another test."""
    return {k.removeprefix("text."): t for k, t in state.items() if k.startswith("text.") or k == "logit_scale"}


def test_open_clip_file(both: StateDict, tmp_path: Path) -> None:
    save_file(both, tmp_path / "c.safetensors")
    weights = load_text(B16, tmp_path / "c.safetensors", config=SMALL)
    assert (weights.kind, weights.synthetic) == ("open_clip", False)
    assert weights.logit_scale == pytest.approx(99.484, rel=1e-4)
    assert weights.fingerprint == fingerprint(synthetic_state_dict(B16, 5))
    for key, tensor in synthetic_text(SMALL, 5).items():
        assert torch.equal(weights.state_dict[key], tensor)


def test_meta_pt_has_open_clips_weights(both: StateDict, tmp_path: Path) -> None:
    from tests.convert.test_checkpoint import to_meta as vision_to_meta  # the vision side of the same file

    vision = {k.removeprefix("visual.trunk."): t for k, t in both.items() if k.startswith("visual.")}
    torch.save(vision_to_meta(vision) | to_meta(both), tmp_path / "PE.pt")
    save_file(both, tmp_path / "c.safetensors")
    meta = load_text(B16, tmp_path / "PE.pt", config=SMALL)
    theirs = load_text(B16, tmp_path / "c.safetensors", config=SMALL)
    assert meta.kind == "meta"
    assert meta.state_dict.keys() == theirs.state_dict.keys()
    for key, tensor in theirs.state_dict.items():
        assert torch.equal(meta.state_dict[key], tensor), key
    build_text_tower(SMALL, meta.state_dict)  # strict
    assert meta.logit_scale == theirs.logit_scale


def test_hub(both: StateDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abc123").mkdir()
    save_file(both, tmp_path / "abc123" / CLIP_FILE)
    asked = []

    def fetch(repo: str, filename: str, log: object) -> Path:
        asked.append((repo, filename))
        return tmp_path / "abc123" / filename

    monkeypatch.setattr("pecore.convert.text_tower.fetch", fetch)
    weights = load_text(B16, config=SMALL)
    assert asked == [("timm/PE-Core-B-16", CLIP_FILE)]
    assert (weights.kind, weights.source) == ("hub", "timm/PE-Core-B-16@abc123")


def test_vision_alone_is_refused(tmp_path: Path) -> None:
    save_file(synthetic_state_dict(B16), tmp_path / "v.safetensors")
    with pytest.raises(InputError, match=r"vision tower alone.*open_clip_model"):
        load_text(B16, tmp_path / "v.safetensors", config=SMALL)


@pytest.mark.parametrize("pixels", [64, 48])
def test_the_vision_tower_s_positions_do_not_matter(pixels: int, both: StateDict, tmp_path: Path) -> None:
    """Those of a checkpoint fine-tuned at another image size; the fingerprint is that of the tower in the file."""
    vision = synthetic_state_dict(replace(B16, image_size=pixels), 5)
    assert vision["pos_embed"].shape != both["visual.trunk.pos_embed"].shape
    save_file(both | {f"visual.trunk.{k}": t for k, t in vision.items()}, tmp_path / "c.safetensors")
    weights = load_text(B16, tmp_path / "c.safetensors", config=SMALL)
    assert weights.fingerprint == fingerprint(vision)
    assert weights.origin().fingerprint == load(resized(B16, pixels), tmp_path / "c.safetensors").origin().fingerprint
    with pytest.raises(InputError, match=f"it is for images of {pixels} pixels, try --image-size {pixels}"):
        load(B16, tmp_path / "c.safetensors")


def test_wrapped_and_averaged(both: StateDict, tmp_path: Path) -> None:
    other = both | {f"text.{k}": t for k, t in synthetic_text(SMALL, 6).items()}
    content = {"state_dict": {f"module.model.{k}": t for k, t in both.items()}, "state_dict_ema": other}
    torch.save(content, tmp_path / "c.pt")
    lines: list[str] = []
    for ema, seed in ((True, 6), (False, 5)):
        weights = load_text(B16, tmp_path / "c.pt", config=SMALL, ema=ema, log=lines.append)
        assert torch.equal(weights.state_dict["ln_final.bias"], synthetic_text(SMALL, seed)["ln_final.bias"])
        assert weights.origin().taken == weights.taken
    assert "state_dict_ema; averaged (EMA) weights" in lines[0]
    assert "keys that begin with model." in lines[1]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_text_weights_that_are_no_floats(dtype: torch.dtype, both: StateDict, tmp_path: Path) -> None:
    save_file(both | {"text.ln_final.bias": torch.ones(64, dtype=dtype)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=f"{dtype} in ln_final.bias"):
        load_text(B16, tmp_path / "c.safetensors", config=SMALL)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.pop("text.ln_final.bias"), r"ln_final\.bias is missing instead of \[64\]"),
        (lambda s: s.update({"text.extra": torch.ones(1)}), "extra is unknown"),
        (
            lambda s: s.update({"text.ln_final.bias": torch.full((64,), torch.nan)}),
            r"NaN or infinity in ln_final\.bias",
        ),
    ],
)
def test_misfits_are_refused(spoil: Any, said: str, both: StateDict, tmp_path: Path) -> None:
    state = dict(both)
    spoil(state)
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=said):
        load_text(B16, tmp_path / "c.safetensors", config=SMALL)


# Which vision tower a text tower belongs to


def test_fingerprint_is_of_the_values() -> None:
    state = {"b": torch.tensor([0.1, 2.0]), "a": torch.ones(2, 3)}
    assert fingerprint(state) == fingerprint(dict(reversed(state.items())))
    assert fingerprint(state) == fingerprint({k: t.half() for k, t in state.items()})
    assert fingerprint(state) != fingerprint(state | {"a": torch.ones(3, 2)})
    assert fingerprint(state) != fingerprint(state | {"b": torch.tensor([0.1, 2.01])})
    assert fingerprint(state) != fingerprint({"c": state["b"], "a": state["a"]})


def about(kind: str = "open_clip", print_: str | None = "f", seed: int | None = None) -> Origin:
    return Origin(kind, source=kind, synthetic=kind == "synthetic", seed=seed, fingerprint=print_)


@pytest.mark.parametrize(
    ("text", "vision", "fits"),
    [
        (about(), about("timm"), True),
        (about(), about("timm", "g"), False),
        (about(), about("timm", None), False),
        (about("hub", "f"), about("hub", "g"), True),
        (about("hub", "f"), about("timm", "g"), False),
        (about("synthetic", None, 1), about("synthetic", "f", 1), True),
        (about("synthetic", None, 1), about("synthetic", "f", 2), False),
        (about("synthetic", None, 1), about("timm"), False),
    ],
)
def test_which_towers_are_of_one_checkpoint(text: Origin, vision: Origin, fits: bool) -> None:
    assert (different_checkpoint(text, vision) is None) == fits


# The rewrite


@pytest.mark.parametrize("keep_norm_weights", [False, True])
def test_rewrite_is_exact(keep_norm_weights: bool, tower: Any) -> None:
    double = copy.deepcopy(tower).double()
    double.attn_mask = double.attn_mask.double()
    scales = Scales(stream=2.0**-7, gains={"blocks.1.norm2": 8.0, "norm": 4.0}, head=0.25)
    ours = rewrite_text(tower, scales, clip_tokenizer().end, torch.float64, keep_norm_weights)
    for prompt, ids in zip(PROMPTS, ids_of(PROMPTS)):
        with torch.no_grad():
            theirs = F.normalize(double(ids[None]), dim=-1)
            difference = (ours(ids[None].int()) - theirs).abs().max()
        assert difference < 1e-12, prompt  # rounding in float64 is all that is left
    assert max_difference(tower, scales, ids[None].int(), clip_tokenizer().end, keep_norm_weights) < 1e-12


def test_max_difference_sees_a_wrong_block(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pecore.rewrites.text.MASKED", 0.0)  # tokens see those after them
    ids = ids_of(PROMPTS[:1]).int()
    assert max_difference(tower, Scales(), ids, clip_tokenizer().end) > 1e-3


def test_end_pool_takes_the_first_end() -> None:
    x = torch.randn(1, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    pool = EndPool(5, end=9, dtype=torch.float32)
    for ids, expected in (([1, 9, 3, 9, 9], x[:, :, 1:2]), ([1, 2, 3, 4, 9], x[:, :, 4:]), ([0] * 5, x[:, :, :1] * 0)):
        assert torch.equal(pool(x, torch.tensor([ids], dtype=torch.int32)), expected)


def test_masked_softmax_gives_nothing_to_later_tokens() -> None:
    out = MaskedSoftmax(4, torch.float32)(torch.full((1, 2, 4, 4), 500.0))
    assert torch.equal(out.triu(1), torch.zeros(1, 2, 4, 4))
    assert torch.allclose(out.sum(-1), torch.ones(1, 2, 4))


def test_unsupported_parts_are_named(tower: Any) -> None:
    other = copy.deepcopy(tower)
    other.pool_type = "last"
    with pytest.raises(UnsupportedTowerError, match="pool_type='last'"):
        rewrite_text(other, Scales(), 9)
    other = copy.deepcopy(tower)
    other.transformer.resblocks[1].mlp.gelu = torch.nn.ReLU()
    with pytest.raises(UnsupportedTowerError, match=r"transformer\.resblocks\.1"):
        rewrite_text(other, Scales(), 9)
