"""Embedding many images: the pipeline, `Embedder`, buckets (moto's S3 server) and Ray."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pecore.embed import Embedder, about_rows, ahead, embed_images, embedded, list_images, read_image, update_index
from pecore.errors import InputError
from pecore.index import open_index
from pecore.index_writer import IndexWriter

# Rows of one build on one machine, at batch 1: other threads and processes run the same kernels on the same numbers.
SAME = 1e-6


@pytest.fixture
def photos(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "photos")
    (folder / "cat" / "broken.jpg").write_bytes(b"no")
    return folder


def fill(encoder, places, location, **options):
    images = list_images([str(place) for place in places]).images
    writer = IndexWriter(str(location), about_rows(encoder), encoder.dim)
    prune = list(map(str, places)) if options.pop("prune", False) else ()
    return update_index(images, writer, partial(embed_images, encoder=encoder, writer=writer, **options), prune)


def rows(location):
    index = open_index(location)
    return dict(zip(index.all_paths(), index.embeddings()))


def test_an_index_is_filled_brought_up_to_date_and_pruned(encoder, photos, tmp_path):
    out, told = tmp_path / "x.lance", []
    updated = fill(encoder, [photos], out, progress=lambda *args: told.append(args), commit_rows=5)
    assert (updated.reused, updated.added, len(updated.skipped)) == (0, 12, 1)
    assert told[-1][0] == 13
    assert [problem[0] for _, problem in told if problem] == [str(photos / "cat" / "broken.jpg")]
    found = rows(out)
    for path in found:
        assert found[path] == pytest.approx(encoder.embed_image(path)[0], abs=SAME)
    Image.new("RGB", (9, 9), "red").save(photos / "cat" / "0.png")
    (photos / "cat" / "1.png").unlink()
    updated = fill(encoder, [photos], out)
    assert (updated.reused, updated.added, updated.pruned) == (10, 1, 0)
    changed = rows(out)
    assert changed.keys() == found.keys()
    red = str(photos / "cat" / "0.png")
    assert changed[red] == pytest.approx(encoder.embed_image(red)[0], abs=SAME)
    assert not np.allclose(changed[red], found[red], atol=1e-3)
    assert fill(encoder, [photos / "Rocket"], out, prune=True).pruned == 0  # what is elsewhere stays
    assert fill(encoder, [photos], out, prune=True).pruned == 1
    assert rows(out).keys() == found.keys() - {str(photos / "cat" / "1.png")}


def test_a_folder_s_neighbour_is_not_pruned(encoder, photos, tmp_path):
    shutil.copytree(photos / "cat", photos / "cat2")
    fill(encoder, [photos], tmp_path / "x.lance")
    shutil.rmtree(photos / "cat2")
    (photos / "cat" / "0.png").unlink()
    assert fill(encoder, [photos / "cat"], tmp_path / "x.lance", prune=True).pruned == 1
    assert len(open_index(tmp_path / "x.lance")) == 14


@pytest.mark.parametrize("place", [".", "./photos", "photos/"])
def test_places_are_pruned_however_they_are_written(encoder, photos, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    fill(encoder, [place], tmp_path / "x.lance")
    fill(encoder, [photos / "cat"], tmp_path / "x.lance")
    assert len(open_index(tmp_path / "x.lance")) == 15
    (photos / "cat" / "0.png").unlink()
    assert fill(encoder, [place], tmp_path / "x.lance", prune=True).pruned == 1
    assert str(photos / "cat" / "0.png") in rows(tmp_path / "x.lance")  # named otherwise


def test_ctrl_c_commits_what_is_done_and_no_usable_image_is_an_error(encoder, photos, tmp_path):
    def stop(done, problem):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(encoder, [photos], tmp_path / "x.lance", progress=stop)
    done = len(open_index(tmp_path / "x.lance"))
    assert done in (6, 7)  # broken.jpg may be among the seven
    assert fill(encoder, [photos], tmp_path / "x.lance").reused == done
    with pytest.raises(InputError, match=r"none of the 1 images could be used; the first: .*broken\.jpg"):
        fill(encoder, [photos / "cat" / "broken.jpg"], tmp_path / "y.lance")


def test_images_are_decoded_a_few_ahead_and_come_in_order():
    started, lock = [], threading.Lock()
    gate = threading.Event()

    def work(item):
        with lock:
            started.append(item)
        gate.wait(10)
        time.sleep(0.01 * (item % 3))
        return 2 * item

    results = ahead(work, iter(range(30)), workers=4, depth=6)
    threading.Timer(0.1, gate.set).start()
    assert next(results) == (0, 0)
    assert max(started) <= 6  # depth of them, and the one that takes the first's place
    assert [item for item, _ in results] == list(range(1, 30))
    abandoned = ahead(work, iter(range(30)), workers=2, depth=4)
    next(abandoned)
    abandoned.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_an_error_that_is_no_image_s_fault_is_raised(encoder):
    def read(item):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(embedded(encoder, [1], read))


def test_batches_are_what_the_graph_takes(shots):
    class Batched:
        """A graph of four images at once; an image's embedding is its mean."""

        batch, seen = 4, []

        def prepare(self, image):
            return np.full((1, 1), np.asarray(image).mean(), np.float32)

        def embed_batch(self, pixels):
            self.seen.append(len(pixels))
            return pixels

    def read(item):
        if item == 3:
            raise InputError("three")
        return np.full((2, 2, 3), item, np.uint8)

    encoder = Batched()
    results = list(embedded(encoder, range(10), read, 2))
    assert encoder.seen == [4, 4, 1]
    assert [item for item, _ in results] == list(range(10))
    assert [float(result[0]) if item != 3 else str(result) for item, result in results] == [
        0,
        1,
        2,
        "three",
        *range(4, 10),
    ]


def test_embedder_is_pickled_unopened_and_takes_what_frameworks_pass(encoder, tiny_bundle, photos):
    embedder = Embedder(tiny_bundle, threads=1)
    path = str(photos / "cat" / "0.png")
    expected = encoder.embed_image(path)[0]
    with Image.open(path) as image:
        image.load()
        images = [image, np.asarray(image.convert("RGB")), Path(path).read_bytes(), {"bytes": Path(path).read_bytes()}]
        images += [{"path": path, "bytes": None}, path]
        out = embedder({"image": images, "id": range(6)})
    assert out["embedding"].shape == (6, 512)
    assert out["embedding"].dtype == np.float32
    for row in out["embedding"]:
        assert row == pytest.approx(expected, abs=SAME)
    assert (list(out["id"]), list(out["error"])) == (list(range(6)), [""] * 6)
    copy = pickle.loads(pickle.dumps(embedder))
    assert len(pickle.dumps(embedder)) < 1000
    out = copy({"path": np.array([path, str(photos / "cat" / "broken.jpg"), "nowhere.jpg"])})
    assert out["embedding"][0] == pytest.approx(expected, abs=SAME)
    assert not out["embedding"][1:].any()
    assert "broken.jpg is not an image" in out["error"][1]
    assert "no image file nowhere.jpg" in out["error"][2]
    with pytest.raises(InputError, match="a column image or path, not only id"):
        embedder({"id": [1]})


def test_what_is_read_is_named_in_its_error():
    for item, said in (
        ({"bytes": b"no", "path": "a.jpg"}, r"^a\.jpg is not an image"),
        ("nosuch://x/y.jpg", r"nosuch://x/y\.jpg can't be re"),
        ("file:///nowhere/y.jpg", r"there is no file:///nowhere/y\.jpg"),
    ):
        with pytest.raises(InputError, match=said):
            read_image(item)


KILLED = """
    import os, signal, sys
    import numpy as np
    from pecore.index_writer import ImageFile, IndexWriter
    writer = IndexWriter(sys.argv[1], {"space": {"fingerprint": "f"}}, 64)
    print("open", flush=True)
    for i in range(10_000):
        writer.add([ImageFile(f"{i}-{j}", 1, 1) for j in range(4)], np.full((4, 64), i, np.float32))
        print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path):
    """At three moments; `benchmarks/collections.py crash` does it at twenty, and on a full disk."""
    location, committed = str(tmp_path / "x.lance"), -1
    for wait in (0.0, 0.03, 0.1):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), location]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}) as run:
            assert run.stdout.readline() == b"open\n"
            time.sleep(wait)
            run.kill()
            said = run.stdout.read().decode().splitlines()
        committed = max([committed, *map(int, said)])
        index = open_index(location)
        paths = index.all_paths()
        assert len(paths) == len(set(paths))
        assert {f"{i}-{j}" for i in range(committed + 1) for j in range(4)} <= set(paths)
        assert index.search(np.ones(64, np.float32), 3) or not paths
    assert committed >= 0


@pytest.fixture(scope="module")
def bucket(dataset):
    """A bucket with the photographs, on moto's S3 server; its name. One server for the module: fsspec keeps its
    connections."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true"}
    settings |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
    settings |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="collection")
        for key in ("photos/notes.txt", "photos/cat/broken.jpg"):
            client.put_object(Bucket="collection", Key=key, Body=b"no image")
        for path in dataset.rglob("*.png"):
            client.upload_file(str(path), "collection", f"photos/{path.relative_to(dataset)}")
        yield "collection"
    server.stop()


def test_a_bucket_s_images_into_a_bucket_s_index(bucket, encoder, dataset):
    out = f"s3://{bucket}/photos.lance"
    updated = fill(encoder, [f"s3://{bucket}/photos"], out)
    assert (updated.added, len(updated.skipped)) == (12, 1)
    assert updated.skipped[0][1].startswith(f"s3://{bucket}/photos/cat/broken.jpg is not an image")
    found = rows(out)
    for path in found:
        local = dataset / path.removeprefix(f"s3://{bucket}/photos/")
        assert found[path] == pytest.approx(encoder.embed_image(local)[0], abs=SAME)
    assert fill(encoder, [f"s3://{bucket}/photos"], out).reused == 12
    query = encoder.embed_image(dataset / "cat" / "1.png")[0]
    assert open_index(out).search(query, 1)[0].path == f"s3://{bucket}/photos/cat/1.png"
    for place, said in (("photos/none", "there is no image file in"), ("photos/cat/1.png", None)):
        if said:
            with pytest.raises(InputError, match=said):
                list_images([f"s3://{bucket}/{place}"])
        else:
            assert len(list_images([f"s3://{bucket}/{place}"]).images) == 1
    with pytest.raises(InputError, match="there is no index s3://"):
        open_index(f"s3://{bucket}/other.lance")


def test_ray_gives_the_rows_of_the_local_engine(bucket, encoder, tiny_bundle, monkeypatch):
    """On a local cluster of two actors, from a bucket into a bucket; an image that has changed is replaced."""
    import ray

    from pecore import embed_ray

    places, out = [f"s3://{bucket}/photos"], f"s3://{bucket}/ray.lance"
    fill(encoder, places, f"s3://{bucket}/local.lance")
    monkeypatch.setattr(embed_ray, "BATCH_ROWS", 4)
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}},
    )
    try:
        told = []
        images = list_images(places).images
        writer = IndexWriter(out, about_rows(encoder), encoder.dim)
        writer.add(images[:1], np.ones((1, encoder.dim), np.float32))
        stale = [type(images[0])(images[0].path, 1, 1), *images[1:]]
        embedder = Embedder(tiny_bundle, threads=1)
        engine = partial(embed_ray.embed_images, embedder=embedder, writer=writer, cluster=embed_ray.Cluster(workers=2))
        updated = update_index(stale, writer, partial(engine, progress=lambda *args: told.append(args)))
        assert (updated.added, updated.reused, len(updated.skipped)) == (12, 0, 1)
        assert told[-1][0] == 13
        ours, local = rows(out), rows(f"s3://{bucket}/local.lance")
        assert len(open_index(out)) == len(ours) == 12
        assert ours.keys() == local.keys()
        for path in ours:
            assert ours[path] == pytest.approx(local[path], abs=SAME)
        with pytest.raises(InputError, match=r"Ray gave up: .*no bundle"):
            update_index(
                images[1:],
                IndexWriter(f"s3://{bucket}/y.lance", about_rows(encoder), 512),
                partial(engine, embedder=Embedder("/nowhere")),
            )
    finally:
        ray.shutdown()
