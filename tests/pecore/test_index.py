import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pecore.cluster import cluster
from pecore.errors import InputError
from pecore.image_files import find_images
from pecore.index import read_index, top_k, write_index
from pecore.indexing import build_index

ABOUT = {"file": "m.tflite", "backend": "cpu", "space": {"size": "T16", "source": "s", "fingerprint": "f"}}
DIM = 8


def unit(rows, seed=0):
    out = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


class Embedder:
    """Embeds a file's bytes, refuses what says `bad`, and counts; stops like Ctrl-C after `stop` of them."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def __call__(self, path):
        if self.stop is not None and len(self.seen) == self.stop:
            raise KeyboardInterrupt
        data = path.read_bytes()
        if data == b"bad":
            raise InputError(f"{path} is bad")
        self.seen.append(path.name)
        return unit(1, seed=list(data))[0]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(bytes([i]))
    return find_images([folder])


def build(images, out, embedder, about=ABOUT):
    return build_index(images, embedder, out, about, DIM)


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_top_k_is_a_full_sort(k, block):
    # In steps of 1/64 nothing is rounded: scores, and so the order, don't depend on how a product's sums are split.
    rows, queries = np.round(64 * unit(30)) / 64, np.round(64 * unit(3, seed=1)) / 64
    rows[20] = rows[4]  # a tie
    queries[0] = rows[4]
    places, scores = top_k(queries, rows, k, rows_at_once=block)
    full = queries @ rows.T
    for q in range(3):
        expected = np.lexsort((np.arange(30), -full[q]))[:k]
        np.testing.assert_array_equal(scores[q], full[q][expected])
        assert list(places[q]) == list(expected)
    assert list(places[0][:2]) == [4, 20][:k]
    with pytest.raises(InputError, match="the 0 nearest"):
        top_k(queries, rows, 0)


def test_equal_scores_are_in_the_order_of_rows():
    rows = np.tile(np.eye(DIM, dtype=np.float32)[:2], (10, 1))
    places, scores = top_k(np.eye(DIM, dtype=np.float32)[:1], rows, 12, rows_at_once=6)
    assert list(places[0]) == [*range(0, 20, 2), 1, 3]
    assert list(scores[0]) == [1] * 10 + [0] * 2


def test_an_index_is_an_npz_and_memory_mapped(tmp_path):
    path, rows = tmp_path / "x.npz", unit(5)
    names = ["a.jpg", "é[b].png", "c", "d" * 300, "e"]
    write_index(path, [rows[:2], rows[2:]], names, [(i, i * 10**18) for i in range(5)], ABOUT, DIM)
    index = read_index(path)
    assert isinstance(index.embeddings, np.memmap)
    assert index.embeddings.flags.aligned
    assert not index.embeddings.flags.writeable
    assert np.array_equal(index.embeddings, rows)
    assert (index.paths, index.stamps[4], index.about) == (names, (4, 4 * 10**18), ABOUT)
    with np.load(path) as plain:
        assert np.array_equal(plain["embeddings"], rows)
        assert list(plain["paths"]) == names
    assert zipfile.ZipFile(path).testzip() is None
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_what_is_no_index_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match="there is no index"):
        read_index(path)
    good = tmp_path / "good.npz"
    write_index(good, [unit(3)], list("abc"), [(0, 0)] * 3, ABOUT, DIM)
    np.savez_compressed(tmp_path / "compressed.npz", **dict(np.load(good)))
    np.savez(tmp_path / "other.npz", pixels=unit(2))
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("hello")
    for name in ("compressed", "other", "cut", "text"):
        with pytest.raises(InputError, match=rf"{name}\.npz is no index of ours"):
            read_index(tmp_path / f"{name}.npz")


def test_build_skips_and_reports(images, tmp_path):
    images[2].write_bytes(b"bad")
    seen = []
    built = build_index(images, Embedder(), tmp_path / "x.npz", ABOUT, DIM, lambda *args: seen.append(args))
    assert built.index.paths == [str(p) for p in images if p != images[2]]
    assert np.array_equal(built.index.embeddings[1], unit(1, seed=[1])[0])
    assert built.skipped == [(images[2], f"{images[2]} is bad")]
    assert seen[2] == (3, built.skipped[0])
    assert seen[-1] == (5, None)
    assert built.reused == 0
    assert not (tmp_path / "x.npz.part").exists()


def test_a_second_run_embeds_what_is_new_or_changed(images, tmp_path):
    out = tmp_path / "x.npz"
    build(images[:4], out, Embedder())
    images[0].write_bytes(bytes([9, 9]))
    embedder = Embedder()
    built = build(images[1:] + images[:1], out, embedder)
    assert embedder.seen == ["4.jpg", "0.jpg"]
    assert built.reused == 3
    assert built.index.paths == [str(p) for p in images[1:] + images[:1]]
    expected = np.concatenate([unit(1, seed=s) for s in ([1], [2], [3], [4], [9, 9])])
    assert np.array_equal(built.index.embeddings, expected)


def test_stopped_work_goes_on(images, tmp_path):
    out = tmp_path / "x.npz"
    with pytest.raises(KeyboardInterrupt):
        build(images, out, Embedder(stop=3))
    assert not out.exists()
    part = tmp_path / "x.npz.part"
    with (part / "rows.f32").open("ab") as rows, (part / "images.jsonl").open("a") as names:
        rows.write(b"half a row")  # killed while writing
        names.write('["half a li')
    embedder = Embedder()
    built = build(images, out, embedder)
    assert embedder.seen == ["3.jpg", "4.jpg"]
    assert built.reused == 3
    assert np.array_equal(built.index.embeddings, np.concatenate([unit(1, seed=[i]) for i in range(5)]))
    assert not part.exists()


def test_a_row_without_its_line_or_a_line_without_its_row_is_lost_and_no_more(images, tmp_path):
    out = tmp_path / "x.npz"
    with pytest.raises(KeyboardInterrupt):
        build(images, out, Embedder(stop=3))
    rows = tmp_path / "x.npz.part" / "rows.f32"
    rows.write_bytes(rows.read_bytes()[: 2 * 4 * DIM + 5])
    embedder = Embedder()
    assert np.array_equal(build(images, out, embedder).index.embeddings[2], unit(1, seed=[2])[0])
    assert embedder.seen == ["2.jpg", "3.jpg", "4.jpg"]


def test_rows_of_another_model_are_refused(images, tmp_path):
    out, other = tmp_path / "x.npz", ABOUT | {"file": "other.tflite"}
    with pytest.raises(KeyboardInterrupt):
        build(images, out, Embedder(stop=1))
    with pytest.raises(InputError, match=r"x\.npz\.part was begun with another model"):
        build(images, out, Embedder(), other)
    build(images, out, Embedder())
    with pytest.raises(InputError, match=r"was made with m\.tflite on cpu"):
        build(images, out, Embedder(), other)


def test_a_bundle_that_moved_is_the_same(images, tmp_path):
    out, moved = tmp_path / "x.npz", ABOUT | {"bundle": "/there"}
    with pytest.raises(KeyboardInterrupt):
        build(images[:4], out, Embedder(stop=1), ABOUT | {"bundle": "/here"})
    assert build(images[:4], out, Embedder(), moved).reused == 1
    built = build(images, out, Embedder(), ABOUT)
    assert (built.reused, built.index.about) == (4, ABOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_two_runs_do_not_write_one_index(images, tmp_path):
    out = tmp_path / "x.npz"
    embedder = Embedder()

    def embed(path):
        with pytest.raises(InputError, match=r"another run is writing .*x\.npz"):
            build(images, out, Embedder())
        return embedder(path)

    assert np.array_equal(build(images, out, embed).index.embeddings[4], unit(1, seed=[4])[0])
    assert build(images, out, Embedder()).reused == 5


def test_places_that_won_t_do(images, tmp_path):
    with pytest.raises(InputError, match=r"\.npz file, not x\.json; give --out .*x\.npz"):
        build(images, tmp_path / "x.json", Embedder())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        build(images, tmp_path / "file" / "x.npz", Embedder())
    (tmp_path / "mine.npz").write_text("keep me")
    with pytest.raises(InputError, match="no index of ours"):
        build(images, tmp_path / "mine.npz", Embedder())
    assert (tmp_path / "mine.npz").read_text() == "keep me"
    for path in images:
        path.write_bytes(b"bad")
    with pytest.raises(InputError, match="none of the 5 images could be used"):
        build(images, tmp_path / "x.npz", Embedder())


def test_find_images(tmp_path):
    for name in ("b/2.JPG", "b/10.png", "a.webp", ".hidden/x.png", "b/.x.png", "notes.txt", "odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path / "odd", tmp_path, tmp_path / "b" / "2.JPG"])
    assert [str(p.relative_to(tmp_path)) for p in found] == ["odd", "a.webp", "b/10.png", "b/2.JPG"]
    with pytest.raises(InputError, match="there is no nowhere"):
        find_images([Path("nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image file in"):
        find_images([tmp_path / "empty"])


def test_clusters_are_the_groups_there_are():
    centres = np.eye(DIM, dtype=np.float32)[:3]
    noise = np.random.default_rng(0).standard_normal((60, DIM)).astype(np.float32) * 0.05
    truth = np.repeat([0, 1, 2], [10, 20, 30])
    rows = centres[truth] + noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = cluster(rows, 3)
    assert [sorted(c.rows) for c in clusters] == [list(np.flatnonzero(truth == t)) for t in (2, 1, 0)]
    assert all((np.diff(c.cosines) <= 0).all() for c in clusters)
    assert json.dumps([c.rows.tolist() for c in cluster(rows, 3)]) == json.dumps([c.rows.tolist() for c in clusters])
    for k in (0, 61):
        with pytest.raises(InputError, match=f"into {k} clusters"):
            cluster(rows, k)
