"""The index: what it holds, how it is searched and written, its other forms."""

import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pecore import cluster as cluster_module
from pecore import index as index_module
from pecore import index_writer
from pecore.cluster import cluster
from pecore.errors import InputError
from pecore.image_files import find_images
from pecore.index import Block, from_stored, open_index, to_stored, top_k
from pecore.index_formats import export_index, format_of, import_npz
from pecore.index_writer import ImageFile, IndexWriter, build_approximate

ABOUT = {"file": "m.tflite", "backend": "cpu", "space": {"size": "T16", "source": "s", "fingerprint": "f"}}
DIM = 64
"""Lance packs vectors of fewer than 32 numbers otherwise; embeddings have 512 and more."""


def unit(rows, seed=0):
    out = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def files(names, size=1, modified_ns=1):
    return [ImageFile(str(name), size, modified_ns) for name in names]


def write(location, names, embeddings=None, about=ABOUT):
    writer = IndexWriter(str(location), about, DIM)
    writer.add(files(names), unit(len(names)) if embeddings is None else embeddings)
    return writer


def content(location):
    index = open_index(location)
    return dict(zip(index.all_paths(), index.embeddings()))


def scanned(index):
    """The same index read by Lance, as one in a bucket is."""
    index.__dict__["_pages"] = None
    return index


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_top_k_is_a_full_sort(k, block):
    # In steps of 1/64 nothing is rounded: scores, and so the order, don't depend on how a product's sums are split.
    rows, query = np.round(64 * unit(30)) / 64, np.round(64 * unit(1, seed=1))[0] / 64
    rows[20] = rows[4]  # a tie
    numbers = np.arange(30, dtype=np.uint64)
    for asked in (query, rows[4]):
        blocks = [Block(numbers[i : i + block], rows[i : i + block]) for i in range(0, 30, block)]
        places, scores = top_k(asked, blocks, k)
        full = rows @ asked
        expected = np.lexsort((numbers, -full))[:k]
        np.testing.assert_array_equal(scores, full[expected])
        assert list(places) == list(expected)
    assert list(places[:2]) == [4, 20][:k]


def test_equal_scores_are_in_the_order_of_rows_and_what_does_not_count_is_left_out():
    rows = np.tile(np.eye(DIM, dtype=np.float32)[:2], (10, 1))
    numbers, counted = np.arange(20, dtype=np.uint64), np.arange(20) != 2
    blocks = [Block(numbers[i : i + 6], rows[i : i + 6], counted[i : i + 6]) for i in range(0, 20, 6)]
    places, scores = top_k(np.eye(DIM, dtype=np.float32)[0], blocks, 11)
    assert list(places) == [0, *range(4, 20, 2), 1, 3]
    assert list(scores) == [1] * 9 + [0] * 2


@pytest.mark.parametrize("mapped", [True, False])
def test_search_finds_the_nearest_of_all_commits(tmp_path, mapped, monkeypatch):
    monkeypatch.setattr(index_module, "ROWS_AT_ONCE", 3)
    embeddings = unit(40)
    writer = IndexWriter(str(tmp_path / "x.lance"), ABOUT, DIM)
    for start in range(0, 40, 10):
        writer.add(files(range(start, start + 10)), embeddings[start : start + 10])
    writer.remove(["7", "31", "32"])
    index = open_index(tmp_path / "x.lance")
    assert index._pages  # mapped where it is on a disk: a change of the files' form shows here
    index = index if mapped else scanned(index)
    left = [i for i in range(40) if i not in (7, 31, 32)]
    query = unit(1, seed=5)[0]
    order = sorted(left, key=lambda i: -(embeddings[i] @ query))
    found = index.search(query, 12)
    assert [f.path for f in found] == [str(i) for i in order[:12]]
    # Sums of 64 products in another order: some units in the last place of numbers below 1.
    assert [f.cosine for f in found] == pytest.approx([embeddings[i] @ query for i in order[:12]], abs=1e-6)
    assert len(index.search(query, 99)) == len(index) == 37


@pytest.mark.parametrize("mapped", [True, False])
def test_a_condition_filters(tmp_path, mapped):
    writer = IndexWriter(str(tmp_path / "x.lance"), ABOUT, DIM)
    day = 86_400 * 10**9
    images = [ImageFile(f"{'modified' if i % 2 else 'b'}/{i}.jpg", i, i * day) for i in range(20)]
    writer.add(images, unit(20))
    index = open_index(tmp_path / "x.lance")
    index = index if mapped else scanned(index)

    def found(where):
        return sorted(int(f.path.split("/")[1][:-4]) for f in index.search(unit(1)[0], 99, where))

    assert found("size >= 17") == [17, 18, 19]
    assert found("modified > '1970-01-18'") == [18, 19]
    assert found("modified_ns = 0") == [0]
    assert found("path like 'modified/%' and size < 5") == [1, 3]
    assert found("size > 99") == []
    with pytest.raises(
        InputError, match=r"the condition 'colour = 1' can't be used .*No field named colour.* modified"
    ):
        found("colour = 1")


def test_a_form_of_the_files_that_is_not_known_is_read_by_lance(tmp_path, monkeypatch):
    write(tmp_path / "x.lance", "abc")
    right = open_index(tmp_path / "x.lance").search(unit(3)[1], 1)
    pages = index_module._fragment_pages

    def shifted(*args):
        return [index_module._Page(p.fragment, p.first, p.rows, p.file, p.position + 4) for p in pages(*args)]

    monkeypatch.setattr(index_module, "_fragment_pages", shifted)
    index = open_index(tmp_path / "x.lance")
    assert index._pages is None
    assert index.search(unit(3)[1], 1) == right
    assert right[0].path == "b"


def test_what_can_t_be_asked(tmp_path):
    write(tmp_path / "x.lance", "abc")
    index = open_index(tmp_path / "x.lance")
    with pytest.raises(InputError, match="the 0 nearest"):
        index.search(unit(1)[0], 0)
    with pytest.raises(InputError, match=r"has 64 numbers, not \[7\]"):
        index.search(np.zeros(7, np.float32))


def test_an_index_is_a_lance_dataset(tmp_path):
    write(tmp_path / "x.lance", ["a.jpg", "é[b]'.png", "d" * 300])
    dataset = lance.dataset(str(tmp_path / "x.lance"))
    table = dataset.to_table()
    assert table.column_names == ["path", "size", "modified_ns", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), DIM)
    assert table["path"].to_pylist() == ["a.jpg", "é[b]'.png", "d" * 300]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), unit(3))
    assert json.loads(dataset.schema.metadata[b"pecore"]) == ABOUT
    index = open_index(tmp_path / "x.lance")
    assert (index.space["fingerprint"], index.dim, len(index)) == ("f", DIM, 3)


@pytest.mark.parametrize("name", ["a/b.jpg", os.fsdecode(b"a/\xff\x80.jpg"), "ü\U0001f600"])
def test_a_name_that_is_not_utf_8_is_kept(name, tmp_path):
    assert from_stored(to_stored(name)) == name
    writer = write(tmp_path / "x.lance", [name, "z"])
    assert open_index(tmp_path / "x.lance").all_paths() == [name, "z"]
    assert list(writer.known(files([name, "y"]))) == [True, False]


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no index .*x\.lance; make one with"):
        open_index(tmp_path / "x.lance")
    (tmp_path / "file.lance").write_text("hello")
    (tmp_path / "stopped.lance" / "_versions").mkdir(parents=True)
    write(tmp_path / "stopped.lance", "abc")
    assert len(open_index(tmp_path / "stopped.lance")) == 3
    (tmp_path / "folder.lance").mkdir()
    (tmp_path / "folder.lance" / "mine").write_text("hello")
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "other.lance"))
    for name in ("file", "folder", "other"):
        with pytest.raises(InputError, match=rf"{name}\.lance is .*no index of ours"):
            open_index(tmp_path / f"{name}.lance")
        with pytest.raises(InputError, match=rf"{name}\.lance is .*no index of ours"):
            IndexWriter(str(tmp_path / f"{name}.lance"), ABOUT, DIM)
    with pytest.raises(InputError, match=r"is an export; `pecore embed .*x\.npz --out .*x\.lance`"):
        open_index(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"there is no folder .*gone; make it first"):
        IndexWriter(str(tmp_path / "gone" / "x.lance"), ABOUT, DIM)
    assert (tmp_path / "folder.lance" / "mine").read_text() == "hello"


@pytest.mark.parametrize("compared", [1, 2, 1000])
def test_rows_are_known_by_path_size_and_time_and_replaced_by_path(tmp_path, monkeypatch, compared):
    monkeypatch.setattr(index_writer, "ROWS_COMPARED", compared)
    writer = write(tmp_path / "x.lance", "abc")
    again = IndexWriter(str(tmp_path / "x.lance"), ABOUT | {"bundle": "/moved"}, DIM)
    assert list(again.known(files("cxa"))) == [True, False, True]
    assert list(again.known([*files("a", size=2), *files("b", modified_ns=2)])) == [False, False]
    assert list(again.known([])) == []
    again.add(files("bd", size=2), unit(2, seed=1))
    assert list(writer.known([*files("db", size=2), *files("ac")])) == [True] * 4
    assert list(writer.known(files("adc", size=2))) == [False, True, False]
    rows = content(tmp_path / "x.lance")
    assert sorted(rows) == ["a", "b", "c", "d"]
    assert np.array_equal(rows["b"], unit(2, seed=1)[0])
    assert np.array_equal(rows["c"], unit(3)[2])
    writer.remove(["a", "o'clock"])
    assert sorted(content(tmp_path / "x.lance")) == ["b", "c", "d"]


@pytest.mark.parametrize(
    "other", [{"file": "o.tflite"}, {"backend": "gpu"}, {"space": ABOUT["space"] | {"size": "B16"}}]
)
def test_rows_of_another_model_are_refused(tmp_path, other):
    write(tmp_path / "x.lance", "abc")
    with pytest.raises(InputError, match=r"was made with m\.tflite on cpu of s; give --out another place"):
        IndexWriter(str(tmp_path / "x.lance"), ABOUT | other, DIM)
    with pytest.raises(InputError, match="was made with"):
        IndexWriter(str(tmp_path / "x.lance"), ABOUT, DIM + 1)


def test_two_writers_lose_nothing_and_double_nothing(tmp_path):
    """Both embed one folder at once, and each something of its own."""
    location = str(tmp_path / "x.lance")
    failed = []

    def run(own):
        try:
            writer = IndexWriter(location, ABOUT, DIM)
            for i in range(8):
                writer.add(files([f"both{i}", f"{own}{i}"]), unit(2, seed=i))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(own,)) for own in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    paths = open_index(location).all_paths()
    assert sorted(paths) == sorted(f"{own}{i}" for own in ("both", "a", "b") for i in range(8))


def test_small_files_are_put_together_and_old_versions_go(tmp_path, monkeypatch):
    monkeypatch.setattr(index_writer, "SMALL_FILES", 4)
    monkeypatch.setattr(index_writer, "OLD_VERSIONS", index_writer.OLD_VERSIONS * 0)
    location = str(tmp_path / "x.lance")
    writer = IndexWriter(location, ABOUT, DIM)
    for i in range(9):
        writer.add(files([i]), unit(9)[i : i + 1])
    dataset = lance.dataset(location)
    assert len(dataset.get_fragments()) <= 3
    assert len(dataset.versions()) <= 4
    assert np.array_equal(np.stack([content(location)[str(i)] for i in range(9)]), unit(9))
    assert open_index(location)._pages is not None


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    writer = write(tmp_path / "x.lance", "abc")

    def full(*args, **options):
        raise OSError("LanceError(IO): No space left on device (os error 28), /build/rust/io.rs:12:3")

    monkeypatch.setattr(sys.modules["lance.dataset"].MergeInsertBuilder, "execute", full)
    with pytest.raises(
        InputError, match=r"x\.lance can't be written \(.*No space left on device \(os error 28\)\); free"
    ):
        writer.add(files("d"), unit(1))
    assert list(content(tmp_path / "x.lance")) == ["a", "b", "c"]


def test_the_approximate_index_is_used_when_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(index_writer, "PARTITION_ROWS", 256)
    location, rows = str(tmp_path / "x.lance"), unit(600)
    write(tmp_path / "few.lance", "abc")
    writer = write(location, range(500), rows[:500])
    with pytest.raises(InputError, match=r"3 rows, which a search compares in milliseconds; .* for 256 rows and more"):
        build_approximate(open_index(tmp_path / "few.lance"))
    assert open_index(location).approximate_rows == 0
    build_approximate(open_index(location))
    assert open_index(location).approximate_rows == 500
    writer.add(files(range(500, 600)), rows[500:])
    opened = open_index(location)
    assert (opened.approximate_rows, len(opened)) == (500, 600)
    calls = []
    monkeypatch.setattr(index_module, "top_k", lambda *args: calls.append(args) or top_k(*args))
    for row in (3, 599):  # one that it covers, one that it does not
        (first, *_) = opened.search(rows[row], 5)
        assert first.path == str(row)
        assert first.cosine == pytest.approx(1, abs=1e-6)
        assert [f.path for f in opened.search(rows[row], 5, "size > 1")] == []
        assert not calls
        exact = opened.search(rows[row], 5, exact=True)
        assert len(calls) == 1
        calls.clear()
        # All two partitions are probed and 100 of 250 rows are candidates: nothing is missed here.
        assert [f.path for f in exact] == [f.path for f in opened.search(rows[row], 5)]
    build_approximate(opened)
    assert open_index(location).approximate_rows == 600
    build_approximate(open_index(location), again=True)
    assert open_index(location).approximate_rows == 600


def test_exports_hold_the_rows(tmp_path):
    names = ["a.jpg", os.fsdecode(b"\xff.jpg") if sys.platform == "linux" else "b.jpg", "d" * 300]
    write(tmp_path / "x.lance", names)
    index = open_index(tmp_path / "x.lance")
    export_index(index, tmp_path / "x.npz", "npz")
    with np.load(tmp_path / "x.npz") as stored:
        assert np.array_equal(stored["embeddings"], unit(3))
        assert stored["paths"].tolist() == names
        assert stored["stamps"].tolist() == [[1, 1]] * 3
        assert json.loads(str(stored["about"])) == ABOUT
    assert zipfile.ZipFile(tmp_path / "x.npz").testzip() is None
    export_index(index, tmp_path / "x.parquet", "parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert [from_stored(path) for path in table["path"].to_pylist()] == names
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), unit(3))
    export_index(index, tmp_path / "clip", "clip-retrieval")
    half = np.load(tmp_path / "clip" / "img_emb" / "img_emb_0.npy")
    assert np.array_equal(half, unit(3).astype(np.float16))
    metadata = pq.read_table(tmp_path / "clip" / "metadata" / "metadata_0.parquet")
    assert [from_stored(path) for path in metadata["image_path"].to_pylist()] == names
    with pytest.raises(InputError, match="can't be written"):
        export_index(index, tmp_path / "x.npz" / "y.npz", "npz")


def test_an_old_npz_is_imported(tmp_path):
    old = tmp_path / "old.npz"
    arrays = {"embeddings": unit(3), "paths": np.array(list("abc")), "stamps": np.ones((3, 2), np.int64)}
    np.savez(old, **arrays, about=np.array(json.dumps(ABOUT | {"bundle": "/gone"})))
    assert import_npz(old, str(tmp_path / "x.lance")) == 3
    rows = content(tmp_path / "x.lance")
    assert np.array_equal(np.stack([rows[name] for name in "abc"]), unit(3))
    assert IndexWriter(str(tmp_path / "x.lance"), ABOUT, DIM).known(files("abcd")).tolist() == [True] * 3 + [False]
    assert import_npz(old, str(tmp_path / "x.lance")) == 3
    assert len(open_index(tmp_path / "x.lance")) == 3
    np.savez(tmp_path / "other.npz", pixels=unit(2))
    (tmp_path / "cut.npz").write_bytes(old.read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("hello")
    for name in ("other", "cut", "text"):
        with pytest.raises(InputError, match=rf"{name}\.npz is no index of ours"):
            import_npz(tmp_path / f"{name}.npz", str(tmp_path / "y.lance"))
    with pytest.raises(InputError, match="there is no"):
        import_npz(tmp_path / "gone.npz", str(tmp_path / "y.lance"))


def test_formats_are_named_or_follow_from_the_ending():
    assert [format_of(out, None) for out in ("a.lance/", "s3://b/a.lance", "a.npz", "a.parquet")] == [
        *("lance", "lance", "npz", "parquet")
    ]
    assert format_of("folder", "clip-retrieval") == "clip-retrieval"
    for out, chosen, said in (
        ("a.json", None, r"a \.lance folder, not a\.json; give --out a\.lance"),
        ("a.lance", "npz", r"--format npz and a\.lance don't go together; name \.npz"),
        ("a.npz", "clip-retrieval", "name a folder"),
        ("a", "faiss", "no format 'faiss'"),
    ):
        with pytest.raises(InputError, match=said):
            format_of(out, chosen)


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


@pytest.mark.parametrize("many", [False, True])
def test_clusters_are_the_groups_there_are(many, monkeypatch):
    if many:
        monkeypatch.setattr(cluster_module, "MINI_BATCH_ABOVE", 59)
        monkeypatch.setattr("sklearn.cluster.KMeans", None)  # not what runs
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
