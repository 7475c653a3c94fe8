import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pecore.bundle import check_same_space, only_bundle, open_bundle
from pecore.convert.checkpoint import load
from pecore.convert.label_embeddings import write_labels
from pecore.convert.load import text_encoder
from pecore.convert.text_tower import build_text_tower, load_text, token_ids
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.convert.towers import build_tower
from pecore.encoder import PerceptionEncoder, rank
from pecore.errors import GateError, InputError
from pecore.image import preprocess
from pecore.labels import LabelSet
from pecore.runtime import open_model

TEXTS = ["a cat", "two dogs on a beach", "", "lots of words " * 30]


@pytest.fixture(scope="module")
def photos(dataset):
    return sorted(dataset.glob("*/0.png"))


@pytest.fixture(scope="module")
def bundle_with_text(tiny_bundle, text_section, tmp_path_factory):
    """The bundle with the text tower's `.tflite` in it."""
    folder = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("with_text") / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["text"] = json.loads((text_section / "manifest.json").read_text())["text"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file in [*text_section.glob("*.tflite"), text_section / "tokenizer.json"]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def text_reference(tiny_variant, tiny_text_config):
    tower = build_text_tower(tiny_text_config, load_text(tiny_variant, "synthetic", config=tiny_text_config).state_dict)
    with torch.no_grad():
        return F.normalize(tower(token_ids(clip_tokenizer(), TEXTS, 32)), dim=-1).numpy()


def test_import_is_cheap():
    code = "import sys, pecore; assert not {'numpy', 'torch', 'PIL'} & set(sys.modules); pecore.PerceptionEncoder"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_image_embeddings_are_pytorch_s(encoder, photos, tiny_variant):
    tower = build_tower(tiny_variant, load(tiny_variant, "synthetic").state_dict)
    with torch.no_grad():
        expected = F.normalize(tower(torch.cat([torch.from_numpy(preprocess(p, 64)) for p in photos])), dim=-1).numpy()
    actual = encoder.embed_image(photos)
    assert actual.dtype == np.float32
    assert actual.shape == (len(photos), encoder.dim) == (4, 512)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)
    assert (actual * expected).sum(1).min() > 0.9999  # weights in fp16
    assert (actual @ expected.T)[~np.eye(4, dtype=bool)].max() < 0.999  # the photographs are further apart than that


def test_one_image_or_a_list_of_any_kind(encoder, photos):
    path = photos[0]
    row = encoder.embed_image(path)
    assert row.shape == (1, 512)
    same = encoder.embed_image([str(path), Image.open(path), np.asarray(Image.open(path))])
    np.testing.assert_allclose(same, np.repeat(row, 3, 0), atol=1e-6, rtol=0)
    assert encoder.embed_image([]).shape == (0, 512)
    assert encoder.embed_text([]).shape == (0, 512)


def test_a_clip_is_the_mean_of_its_frames(encoder, photos):
    rows = encoder.embed_image(photos)
    clip = encoder.embed_video(photos)
    assert clip.shape == (1, 512)
    expected = rows.mean(0) / np.linalg.norm(rows.mean(0))
    np.testing.assert_allclose(clip[0], expected, atol=1e-6)
    np.testing.assert_allclose(encoder.embed_video(photos, frames=1), rows[1:2], atol=1e-6)


def test_a_bundle_without_features_says_how_to_get_them(encoder, photos):
    with pytest.raises(InputError, match=r"gives embedding, not features; `pecore convert --output features`"):
        encoder.features(photos)


def test_a_batch_is_filled_up(encoder, photos, monkeypatch):
    """A graph for two images at a time gets three: the last one twice."""
    spec = encoder._model.inputs["image"]
    one, seen = encoder._model, []

    def run(inputs):
        seen.append(inputs["image"].shape)
        rows = [one.run({"image": row[None]})["embedding"] for row in inputs["image"]]
        return {"embedding": np.concatenate(rows)}

    expected = encoder.embed_image(photos[:3])
    inputs = {"image": replace(spec, shape=(2, *spec.shape[1:]))}
    monkeypatch.setattr(encoder, "_model", SimpleNamespace(run=run, inputs=inputs, outputs=one.outputs))
    np.testing.assert_allclose(encoder.embed_image(photos[:3]), expected, atol=1e-6)
    assert seen == [(2, 3, 64, 64)] * 2


def test_precisions_and_backend(tiny_bundle, encoder, photos):
    int8 = PerceptionEncoder(tiny_bundle, weights="int8")
    assert int8.file.name == "pe_core_tiny_384_int8.tflite"
    assert encoder.file.name == "pe_core_tiny_384_fp16.tflite"
    cosine = float(int8.embed_image(photos[0])[0] @ encoder.embed_image(photos[0])[0])
    assert 0.99 < cosine < 0.999999
    with pytest.raises(InputError, match=r"no fp32 \.tflite \(it has fp16, int8\)"):
        PerceptionEncoder(tiny_bundle, weights="fp32")
    with pytest.raises(InputError, match="'tpu' is no backend"):
        PerceptionEncoder(tiny_bundle, backend="tpu")


def test_packed_weights_are_kept_where_asked(tiny_bundle, encoder, photos, tmp_path):
    cached = PerceptionEncoder(tiny_bundle, weight_cache=tmp_path / "cache")
    np.testing.assert_allclose(cached.embed_image(photos[0]), encoder.embed_image(photos[0]), atol=1e-6)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".xnnpack"]


def test_a_graph_that_normalises_inside_gets_its_own_input(tiny_bundle, encoder, photos, tmp_path):
    """The manifest's layout and range decide what `prepare` makes."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["input"] |= {"layout": "nhwc", "range": "0..255"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pixels = PerceptionEncoder(folder).prepare(photos[0])
    assert pixels.shape == (1, 64, 64, 3)
    assert np.array_equal(pixels, preprocess(photos[0], 64, layout="nhwc", value_range="0..255"))


@pytest.fixture
def pytorch_texts(tiny_bundle, small_text):
    """The bundle, which has no text `.tflite`, with PyTorch's text tower."""
    bundle = open_bundle(tiny_bundle)
    return PerceptionEncoder(bundle, threads=1, text_encoder=text_encoder(bundle))


def test_text_embeddings_from_pytorch(pytorch_texts, text_reference):
    encoder = pytorch_texts
    np.testing.assert_allclose(encoder.embed_text(TEXTS), text_reference, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_text("a cat"), text_reference[:1], atol=1e-5)


def test_text_embeddings_from_the_tflite(bundle_with_text, text_reference):
    actual = PerceptionEncoder(bundle_with_text).embed_text(TEXTS)
    assert actual.shape == (4, 512)
    np.testing.assert_allclose(actual, text_reference, atol=1e-5)


@pytest.mark.usefixtures("small_text")
def test_text_of_another_checkpoint_is_refused(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights"] |= {"kind": "meta", "synthetic": False, "seed": None, "source": "gone.pt"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"gone\.pt, is not there.*--text-checkpoint"):
        text_encoder(open_bundle(folder))
    with pytest.raises(InputError, match=r"no text tower; `pecore convert --size T16 --tower text`"):
        PerceptionEncoder(folder).embed_text("a cat")
    manifest["weights"] |= {"kind": "hub"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"can't be compared|checkpoint"):
        PerceptionEncoder(folder).labels  # noqa: B018


class TestCompare:
    @pytest.fixture
    def encoder(self, pytorch_texts):
        return pytorch_texts

    def test_is_the_cosine(self, encoder, photos):
        image, texts = encoder.embed_image(photos[0])[0], encoder.embed_text(["a cat", "a dog"])
        cosines = encoder.compare(photos[0], ["a cat", "a dog"])
        assert all(isinstance(c, float) for c in cosines)
        np.testing.assert_allclose(cosines, texts @ image, atol=1e-6)

    def test_the_prompts_container_comes_back(self, encoder, photos):
        first, second = encoder.compare(photos[0], ["a cat", "a dog"])
        assert encoder.compare(photos[0], {"x": "a cat", 7: "a dog"}) == pytest.approx({"x": first, 7: second})
        assert encoder.compare(photos[0], "a cat") == pytest.approx([first])
        assert encoder.compare(photos[0], ("a cat",)) == pytest.approx([first])
        assert encoder.compare(photos[0], []) == []
        assert encoder.compare(photos[0], {}) == {}

    def test_images_and_texts_on_either_side(self, encoder, photos):
        assert encoder.compare(photos[0], photos[:2], prompt_type="image")[0] == pytest.approx(1)
        cosine = encoder.compare("a cat", photos[0], subject_type="text", prompt_type="image")
        assert cosine == pytest.approx(encoder.compare(photos[0], "a cat"))
        assert encoder.compare("a cat", "a cat", "text", "text") == pytest.approx([1])

    def test_a_bad_type_is_a_value_error_that_names_it(self, encoder, photos):
        with pytest.raises(ValueError, match="subject_type must be 'image' or 'text', not 'video'"):
            encoder.compare(photos[0], "a cat", subject_type="video")
        with pytest.raises(ValueError, match="prompt_type must be 'image' or 'text', not 'audio'"):
            encoder.compare(photos[0], "a cat", prompt_type="audio")
        with pytest.raises(ValueError, match="a text must be a str, not int: 3"):
            encoder.compare(photos[0], ["a cat", 3])
        with pytest.raises(ValueError, match="one subject, not a list"):
            encoder.compare(photos, "a cat")
        with pytest.raises(ValueError, match="not float"):
            encoder.compare(0.5, "a cat")
        with pytest.raises(ValueError, match="no image file a cat"):
            encoder.compare("a cat", "a cat")


def test_classify(encoder, photos):
    best = encoder.classify(photos[0], top_k=3)
    labels, embedding = encoder.labels, encoder.embed_image(photos[0])[0].astype(np.float64)
    cosines = labels.embeddings.astype(np.float64) @ embedding
    probabilities = torch.softmax(torch.from_numpy(cosines) * labels.logit_scale, 0).numpy()
    assert [p.index for p in best] == list(np.argsort(-cosines)[:3])
    for p in best:
        assert p.label == labels.labels[p.index]
        assert (p.cosine, p.probability) == pytest.approx((cosines[p.index], probabilities[p.index]), abs=1e-6)
    assert sum(p.probability for p in encoder.classify(photos[0], top_k=1000)) == pytest.approx(1)
    with pytest.raises(InputError, match="top 0"):
        encoder.classify(photos[0], top_k=0)
    with pytest.raises(InputError, match="not list"):
        encoder.classify(photos)


def test_rank_breaks_ties_by_place_and_survives_large_scales():
    rows = np.eye(4, dtype=np.float32)[[1, 0, 0, 2]]
    best = rank(np.eye(4, dtype=np.float32)[0], LabelSet(("a", "b", "c", "d"), rows, 1e4, {}, "T16"), 3)
    assert [p.label for p in best] == ["b", "c", "a"]
    assert [p.probability for p in best] == pytest.approx([0.5, 0.5, 0])


def test_labels_of_another_folder(tiny_bundle, tiny_variant, tiny_text_config, photos, tmp_path):
    for seed, folder in enumerate(("same", "other")):
        weights = load_text(tiny_variant, "synthetic", seed=seed, config=tiny_text_config)
        write_labels(
            tmp_path / folder, tiny_variant, weights, ["x", "y"], ["{}"], lambda s: None, config=tiny_text_config
        )
    assert len(PerceptionEncoder(tiny_bundle, labels=tmp_path / "same").classify(photos[0])) == 2
    with pytest.raises(InputError, match="checkpoint"):
        PerceptionEncoder(tiny_bundle, labels=tmp_path / "other").classify(photos[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_an_answer_without_direction_is_no_embedding(value, encoder, photos, monkeypatch):
    answer = {"embedding": np.full((1, 512), value, np.float32)}
    monkeypatch.setattr(encoder._model, "run", lambda inputs: answer)
    with pytest.raises(GateError, match=r"_fp16\.tflite on cpu .* norm"):
        encoder.embed_image(photos[0])


def test_tensorflow_agrees(tiny_bundle, encoder, photos):
    pytest.importorskip("tensorflow")
    other = PerceptionEncoder(tiny_bundle, backend="tensorflow", threads=1)
    np.testing.assert_allclose(other.embed_image(photos[0]), encoder.embed_image(photos[0]), atol=1e-4)


def test_bundles(tiny_bundle, text_section, tmp_path):
    with pytest.raises(InputError, match="is no bundle"):
        open_bundle(tmp_path)
    with pytest.raises(InputError, match="no vision tower"):
        PerceptionEncoder(text_section)
    with pytest.raises(InputError, match=r"no bundle in .*--bundle"):
        only_bundle(tmp_path)
    for name in ("a", "b.rejected", ".c"):
        shutil.copytree(tiny_bundle, tmp_path / name)
    assert only_bundle(tmp_path).folder == tmp_path / "a"
    shutil.copytree(tiny_bundle, tmp_path / "d")
    with pytest.raises(InputError, match="holds 2 bundles"):
        only_bundle(tmp_path)
    (tmp_path / "d" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        open_bundle(tmp_path / "d")


def test_spaces(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    check_same_space(bundle.space, bundle, "x.npz")
    with pytest.raises(InputError, match=r"x\.npz was made with T16 from a\.pt"):
        check_same_space({"size": "T16", "source": "a.pt", "fingerprint": "0"}, bundle, "x.npz")


def test_the_embedding_is_the_graph_s(encoder, photos):
    raw = open_model(encoder.file).run({"image": preprocess(photos[0], 64)})["embedding"]
    np.testing.assert_allclose(encoder.embed_image(photos[0]), raw, atol=1e-6)
