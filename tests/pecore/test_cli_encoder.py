"""`pecore embed`, `classify`, `search`, `compare`, `cluster` and `evaluate` from the command line."""

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pecore.bundle import open_bundle
from pecore.cli import main
from pecore.convert import load
from pecore.encoder import PerceptionEncoder


@pytest.fixture
def run(capfd):
    """run(arguments...) -> exit code, stdout, stderr."""

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def photos(dataset, tmp_path):
    """The data set's twelve images, and a file that is none."""
    folder = shutil.copytree(dataset, tmp_path / "photos")
    (folder / "cat" / "broken.jpg").write_bytes(b"no")
    shutil.copy(folder / "cat" / "0.png", folder / "cat" / "[b]old.png")
    return folder


@pytest.fixture(scope="module")
def index(tiny_bundle, dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "x.lance"
    with pytest.raises(SystemExit):
        main(["embed", str(dataset), "--out", str(path), "--bundle", str(tiny_bundle)])
    return path


def test_embed_survives_a_broken_file_and_goes_on(run, photos, tiny_bundle, tmp_path):
    out = tmp_path / "x.lance"
    code, stdout, stderr = run("embed", photos, "--out", out, "--bundle", tiny_bundle)
    assert code == 1
    assert "13 embeddings of 512" in stdout
    assert "13 new, 1 skipped" in stdout
    assert "broken.jpg is not an image" in stderr
    assert re.search(r"embedding: 14 of 14, [0-9.]+ images/s", stderr)
    (photos / "cat" / "broken.jpg").unlink()
    code, stdout, _ = run("embed", photos, "--out", out, "--bundle", tiny_bundle, "--json")
    facts = json.loads(stdout)
    assert (code, facts["images"], facts["reused"], facts["added"], facts["skipped"]) == (0, 13, 13, 0, [])
    assert facts["made_with"]["file"] == "pe_core_tiny_384_fp16.tflite"
    code, _, stderr = run("embed", photos, "--out", out, "--bundle", tiny_bundle, "--weights", "int8")
    assert code == 2
    assert "was made with pe_core_tiny_384_fp16.tflite on cpu" in stderr


def test_ctrl_c_says_how_to_go_on(run, dataset, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("pecore.index_writer.IndexWriter.add", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    out = tmp_path / "x.lance"
    code, _, stderr = run("embed", dataset, "--out", out, "--bundle", tiny_bundle)
    assert code == 1
    assert "the same command goes on from here" in stderr
    monkeypatch.undo()
    assert run("embed", dataset, "--out", out, "--bundle", tiny_bundle)[0] == 0


def test_embed_prunes_exports_and_imports(run, photos, tiny_bundle, tmp_path):
    (photos / "cat" / "broken.jpg").unlink()
    npz, bundle = tmp_path / "x.npz", ("--bundle", tiny_bundle)
    code, stdout, _ = run("embed", photos, "--out", npz, *bundle)
    assert code == 0
    assert f"in {tmp_path / 'x.lance'}: 13 new; exported to {npz}." in " ".join(stdout.split())
    with np.load(npz) as stored:
        assert stored["embeddings"].shape == (13, 512)
    (photos / "cat" / "0.png").unlink()
    code, stdout, _ = run("embed", photos, "--out", tmp_path / "x.lance", *bundle, "--prune", "--json")
    facts = json.loads(stdout)
    assert (code, facts["pruned"], facts["reused"], facts["images"]) == (0, 1, 12, 12)
    code, stdout, _ = run("embed", npz, "--out", tmp_path / "y.lance", "--json")
    assert (code, json.loads(stdout)["images"]) == (0, 13)
    assert run("embed", tmp_path / "y.lance", "--out", tmp_path / "y.parquet")[0] == 0
    assert run("embed", tmp_path / "y.lance", "--out", tmp_path / "clip", "--format", "clip-retrieval")[0] == 0
    assert (tmp_path / "clip" / "img_emb" / "img_emb_0.npy").is_file()
    assert run("search", tmp_path / "y.lance", photos / "cat" / "1.png", "--top", "1")[0] == 0
    assert run("search", npz, photos / "cat" / "1.png")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "--out", "x.json"), "an index is a .lance folder, not x.json; give --out x.lance"),
        (("a", "--out", "x.lance", "--engine", "spark"), "there is no engine 'spark'; take local or ray"),
        (("a", "--out", "x.lance", "--workers", "2"), "--address and --workers are for Ray; add --engine ray"),
        (("a", "--out", "s3://b/x.npz"), "s3://b/x.npz: exports go to this machine's disks"),
        (("a.lance", "--out", "b.lance"), "a.lance is an index already"),
        (("a.lance", "c", "--out", "b.npz"), "a.lance is an index, which is converted alone, without c"),
        (("a.npz", "--out", "b.parquet"), "a.npz is imported into a .lance folder, not b.parquet"),
        (("a.lance", "--out", "b.npz"), "there is no index a.lance"),
    ],
)
def test_embed_refuses_before_any_work(run, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run("embed", *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())


def test_index_and_approximate_search(run, index, dataset, tiny_bundle, tmp_path, monkeypatch):
    code, _, stderr = run("index", index)
    assert code == 2
    assert "12 rows, which a search compares in milliseconds" in stderr
    own = shutil.copytree(index, tmp_path / "x.lance")
    monkeypatch.setattr("pecore.index_writer.PARTITION_ROWS", 12)
    code, stdout, _ = run("index", own)
    assert code == 0
    assert "12 of 12 rows in the approximate index" in stdout
    photo = dataset / "cat" / "0.png"
    code, stdout, stderr = run("search", own, photo, "--top", "2")
    assert code == 0
    assert "Approximate, by an index of 12 rows; --exact compares with all of them." in stdout
    assert "searching 12 images, approximately" in stderr
    exact = run("search", own, photo, "--top", "2", "--exact")[1]
    assert "Approximate" not in exact
    for options, approximate in (((), True), (("--exact",), False)):
        content = json.loads(run("search", own, photo, "--json", "--where", "path like '%Rocket%'", *options)[1])
        assert content["approximate"] is approximate
        assert sorted(f["path"] for f in content["found"]) == sorted(str(p) for p in dataset.glob("Rocket/*"))
    code, _, stderr = run("search", own, photo, "--where", "colour = 'red'")
    assert code == 2
    assert "the condition \"colour = 'red'\" can't be used" in stderr


def test_the_only_bundle_in_out_is_taken(run, photos, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = run("classify", photos / "cat" / "0.png")
    assert code == 2
    assert stderr.splitlines()[-1].startswith("error: there is no bundle in out; name one, as in --bundle")
    shutil.copytree(tiny_bundle, tmp_path / "out" / "b")
    assert run("classify", photos / "cat" / "0.png")[0] == 0


def test_classify_one_and_many(run, photos, tiny_bundle, encoder, tmp_path):
    code, stdout, _ = run("classify", photos / "cat" / "0.png", "--bundle", tiny_bundle, "--top", "2", "--json")
    (image,) = json.loads(stdout)["images"]
    expected = encoder.classify(photos / "cat" / "0.png", 2)
    assert code == 0
    assert [p["label"] for p in image["predictions"]] == [p.label for p in expected]
    assert image["predictions"][0]["probability"] == pytest.approx(expected[0].probability, abs=1e-4)
    code, _, stderr = run("classify", photos / "cat" / "broken.jpg", "--bundle", tiny_bundle)
    assert code == 2
    assert "broken.jpg is not an image" in stderr
    grid = tmp_path / "grid.png"
    code, stdout, stderr = run("classify", photos, "--bundle", tiny_bundle, "--save", grid)
    assert code == 1
    assert "broken.jpg is not an image" in stderr
    assert "[b]old.png" in stdout
    assert "Synthetic weights: these figures mean nothing." in stdout
    assert np.asarray(Image.open(grid)).std() > 10


def test_classify_refuses_a_picture_s_place_and_missing_labels(run, photos, text_section, tiny_bundle, tmp_path):
    photo = photos / "cat" / "0.png"
    code, _, stderr = run("classify", photo, "--bundle", tiny_bundle, "--save", tmp_path / "grid.xyz")
    assert code == 2
    assert "--save writes .png files, not grid.xyz" in stderr
    code, _, stderr = run("classify", photo, "--bundle", tiny_bundle, "--labels", text_section)
    assert code == 2
    assert "pecore labels" in stderr


@pytest.mark.parametrize("verb", ["classify", "search"])
def test_the_top_0_are_refused_before_any_work(verb, run):
    code, stdout, stderr = run(verb, "nowhere", "nowhere", "--top", "0")
    assert (code, stdout) == (2, "")
    assert stderr == "error: --top 0: take 1 or more\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "nowhere"),
        ("search", "nowhere", "words"),
        ("cluster", "nowhere"),
        ("evaluate", "--dataset", "nowhere"),
        ("features", "nowhere"),
        ("headroom", "--size", "nowhere"),
        ("localize", "nowhere"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_picture_s_place_is_refused_before_any_work(arguments, run, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("a.jpg", "writes .png files, not a.jpg"),
        ("gone/a.png", f"there is no folder {tmp_path / 'gone'}"),
        ("folder.png", "is a folder"),
    ):
        code, stdout, stderr = run(*arguments, "--save", tmp_path / name)
        assert (code, stdout) == (2, "")
        assert stderr.startswith("error: --save ")
        assert words in stderr


def test_what_was_found_is_printed_though_the_picture_fails(run, index, dataset, tiny_bundle, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    photo = dataset / "cat" / "0.png"
    for arguments, words in (
        (("classify", photo, "--bundle", tiny_bundle), "probability"),
        (("search", index, photo), "1.0000"),
        (("cluster", index, "--k", "2"), "most typical"),
        (("evaluate", "--dataset", dataset, "--bundle", tiny_bundle, "--no-pytorch", "--limit", "4"), "top-1"),
    ):
        code, stdout, stderr = run(*arguments, "--save", tmp_path / "a.png")
        assert code == 2, arguments
        assert words in stdout
        assert "No space left on device" in stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_utf_8(run, dataset, tiny_bundle, tmp_path):
    """And one that looks like markup, from the photograph to every picture and table."""
    names = (tmp_path / os.fsdecode(b"\xff.png"), tmp_path / "[b]:cat:.png")
    for name, label in zip(names, ("cat", "Rocket")):
        shutil.copy(dataset / label / "0.png", name)
    out, picture = tmp_path / "x.lance", tmp_path / "picture" / "a.png"
    picture.parent.mkdir()
    bundle = ("--bundle", tiny_bundle)
    assert run("embed", *names, "--out", out, *bundle)[0] == 0
    for arguments in (
        ("classify", *names, *bundle, "--save", picture),
        ("search", out, names[0], "--save", picture),
        ("search", out, names[1], "--save", picture),
        ("cluster", out, "--k", "2", "--save", picture),
        ("compare", names[0], *names, *bundle),
    ):
        code, stdout, _ = run(*arguments)
        assert code == 0
        assert r"\udcff.png" in "".join(stdout.split())
        assert "[b]:cat:.png" in "".join(stdout.split())
    folder = shutil.copytree(dataset, tmp_path / os.fsdecode(b"\xff"))
    options = ("--no-pytorch", "--weights", "int8", "--save", picture)
    assert run("evaluate", "--dataset", folder, *bundle, *options)[0] == 0
    code, stdout, _ = run("search", out, names[0], "--top", "1", "--json")
    assert (code, json.loads(stdout)["query"]) == (0, str(names[0]))
    code, _, stderr = run("classify", tmp_path / os.fsdecode(b"\xfe.png"), *bundle)
    assert code == 2
    assert r"\udcfe.png" in stderr


def test_search_by_image(run, index, dataset, tmp_path):
    query, picture = dataset / "astronaut" / "1.png", tmp_path / "found.png"
    code, stdout, _ = run("search", index, query, "--top", "3", "--json", "--save", picture)
    content = json.loads(stdout)
    assert code == 0
    assert content["query_type"] == "image"
    assert content["found"][0] == {"path": str(query), "cosine": pytest.approx(1, abs=1e-5)}
    assert len(content["found"]) == 3
    assert Image.open(picture).width == 16 + 4 * 216  # the query and what was found


@pytest.fixture
def text_encoder(small_text, tiny_bundle):
    """The encoder with PyTorch's text tower, which the verbs take for a bundle that has none."""
    bundle = open_bundle(tiny_bundle)
    return PerceptionEncoder(bundle, threads=1, text_encoder=load.text_encoder(bundle))


def test_search_by_text(run, index, text_encoder):
    code, stdout, _ = run("search", index, "a cup of coffee", "--top", "12", "--json")
    content = json.loads(stdout)
    assert (code, content["query_type"]) == (0, "text")
    cosines = text_encoder.compare("a cup of coffee", [f["path"] for f in content["found"]], "text", "image")
    assert [f["cosine"] for f in content["found"]] == pytest.approx(cosines, abs=1e-5)
    assert cosines == sorted(cosines, reverse=True)
    code, stdout, _ = run("search", index, "a cup of coffee", "--top", "1")
    assert content["found"][0]["path"].rsplit("/", 1)[-1] in stdout


def test_search_wants_the_bundle_of_the_index(run, index, tiny_bundle, dataset, tmp_path):
    other = shutil.copytree(tiny_bundle, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["weights"] |= {"fingerprint": "0", "source": "other.pt"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    code, _, stderr = run("search", index, dataset / "cat" / "0.png", "--bundle", other)
    assert code == 2
    assert "T16 from other.pt" in stderr


def test_a_missing_image_is_not_taken_for_words(run, index):
    code, _, stderr = run("search", index, "nowhere.jpg")
    assert code == 2
    assert "there is no image file nowhere.jpg; for the words themselves add --query-type text" in stderr
    code, _, stderr = run("search", index, "x", "--query-type", "sound")
    assert code == 2
    assert "image or text, not 'sound'" in stderr


def test_compare(run, dataset, tiny_bundle, text_encoder):
    photo = dataset / "cat" / "0.png"
    code, stdout, _ = run("compare", photo, "a cat", "a dog", "--bundle", tiny_bundle, "--json")
    rows = json.loads(stdout)["cosines"]
    assert code == 0
    assert [row["prompt"] for row in rows] == ["a cat", "a dog"]
    assert [row["cosine"] for row in rows] == pytest.approx(text_encoder.compare(photo, ["a cat", "a dog"]), abs=1e-5)
    code, stdout, _ = run("compare", photo, photo, "--bundle", tiny_bundle)
    assert code == 0
    assert "1.0000" in stdout
    code, _, stderr = run("compare", photo, photo, "a cat", "--bundle", tiny_bundle)
    assert code == 2
    assert "is an image and 'a cat' is a text" in stderr


def test_cluster(run, index, dataset, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, stdout, _ = run("cluster", index, "--k", "4", "--save", sheet, "--json")
    clusters = json.loads(stdout)["clusters"]
    assert code == 0
    assert len(clusters) == 4
    assert sorted(i["path"] for c in clusters for i in c["images"]) == sorted(str(p) for p in dataset.glob("*/*.png"))
    assert np.asarray(Image.open(sheet)).std() > 10
    code, stdout, _ = run("cluster", index, "--k", "2")
    assert code == 0
    assert "12 images" in stdout
    code, _, stderr = run("cluster", index, "--k", "99")
    assert code == 2
    assert "12 images can't be put into 99 clusters" in stderr


def test_evaluate(run, photos, tiny_bundle, tmp_path):
    plot = tmp_path / "confusion.png"
    code, stdout, stderr = run("evaluate", "--dataset", photos, "--bundle", tiny_bundle, "--save", plot, "--json")
    facts = json.loads(stdout)
    assert code == 1
    assert "broken.jpg is not an image" in stderr
    assert (facts["images"], facts["classes"], facts["labels"], facts["synthetic_weights"]) == (13, 4, 6, True)
    assert [t["tower"] for t in facts["towers"]] == [
        "PyTorch fp32",
        "pe_core_tiny_384_fp16.tflite",
        "pe_core_tiny_384_int8.tflite",
    ]
    assert facts["towers"][1]["agreement"] == 1
    assert plot.read_bytes()[:4] == b"\x89PNG"
    (photos / "cat" / "broken.jpg").unlink()
    options = ("--weights", "int8", "--no-pytorch", "--limit", "5")
    code, stdout, _ = run("evaluate", "--dataset", photos, "--bundle", tiny_bundle, *options)
    assert code == 0
    assert "5 images of 4 classes, among 6 labels" in stdout
    assert "PyTorch" not in stdout


@pytest.mark.parametrize("verb", ["embed", "index", "classify", "search", "compare", "cluster", "evaluate"])
def test_help_shows_an_example(verb, run):
    code, stdout, _ = run(verb, "--help")
    assert code == 0
    assert f"Example: pecore {verb}" in " ".join(stdout.split())


def test_a_sheet_survives_what_it_can_t_draw(tmp_path):
    from pecore.pictures import Line, Section, Tile, contact_sheet

    tiles = [Tile(Path("gone.jpg"), [Line("x" * 200, 0.5)]), Tile(None, [Line("", 0)], "a text")]
    sheet = contact_sheet([Section("heading", tiles), Section("nothing here", [])])
    assert sheet.width == 16 + 2 * 216
