"""What docs/collections.md quotes: throughput, search, the approximate index, crashes, Ray. One part a call.

python -m benchmarks.collections pipeline --bundle out/pe_core_base_224   # 500 photographs of 12 megapixels
python -m benchmarks.collections make --folder DIR                        # 1,000,000 x 1024 made-up rows, 4.2 GB
python -m benchmarks.collections search --folder DIR
python -m benchmarks.collections paths --folder DIR                       # 10,000,000 paths of 200 characters
python -m benchmarks.collections crash --folder DIR                       # add --full a small file system
python -m benchmarks.collections ray --bundle out/pe_core_base_224

Made-up vectors: 32 hidden numbers through tanh into `dim` dimensions, and noise, so that they have neighbours, as a
model's have. Directions drawn at random alone have none: all are equally far, and no approximate index finds "the
nearest" of them.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pecore.embed import Embedder, about_rows, ahead, embed_images, list_images, update_index
from pecore.encoder import PerceptionEncoder
from pecore.errors import InputError
from pecore.index import Found, Index, import_lance, open_index
from pecore.index_writer import ImageFile, IndexWriter, build_approximate, schema, to_table
from pecore.timing import paired, ratio

ABOUT = {"bundle": "", "file": "made-up", "backend": "cpu", "space": {"size": "-", "source": "-", "fingerprint": "f"}}
BLOCK = 10_000


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def photographs(folder: Path, count: int) -> None:
    """JPEGs of 4000 x 3000 pixels, quality 90, with noise: about 3 MB each. Sixteen are made and linked."""
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    shots = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    for i in range(count):
        path = folder / f"{i:04d}.jpg"
        if path.exists():
            continue
        if i >= 16:
            os.link(folder / f"{i % 16:04d}.jpg", path)
            continue
        pixels = np.asarray(shots[i % 4].resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = pixels + np.random.default_rng(i).normal(0, 6, (3000, 4000, 1)).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def pipeline(options: argparse.Namespace) -> None:
    """`pecore embed`'s wall time beside decoding all and inferring all, each alone, in turns of `--turn` images."""
    folder = options.folder / "photographs"
    photographs(folder, options.images)
    files = sorted(folder.glob("*.jpg"))[: options.images]
    cores = os.cpu_count() or 1
    encoders = {threads: PerceptionEncoder(options.bundle, threads=threads) for threads in (1, cores)}
    encoder = encoders[cores]
    pixels = encoder.prepare(files[0])
    times: dict[str, float] = {}
    work: dict[str, float] = {}  # time on a core, which other work on the machine hardly changes

    def add(name: str, function: Callable[[], object]) -> None:
        start = time.process_time()
        times[name] = times.get(name, 0) + timed(function)
        work[name] = work.get(name, 0) + time.process_time() - start

    out = options.folder / "pipeline.lance"
    shutil.rmtree(out, ignore_errors=True)
    writer = IndexWriter(str(out), about_rows(encoder), encoder.dim)
    for start in range(0, len(files), options.turn):
        some = files[start : start + options.turn]
        images = list_images([str(path) for path in some]).images
        add(
            "embed",
            lambda images=images: update_index(images, writer, partial(embed_images, encoder=encoder, writer=writer)),
        )
        add("decode all, one thread", lambda some=some: [encoder.prepare(path) for path in some])
        add(f"decode all, {cores} threads", lambda some=some: list(ahead(encoder.prepare, some, cores, 2 * cores)))
        for threads, one in encoders.items():
            add(f"infer all, {threads} threads", lambda one=one, some=some: [one.embed_batch(pixels) for _ in some])
    print(f"{len(files)} photographs of 12 megapixels, {cores} cores")
    for name, seconds in times.items():
        ratio_ = f"embed / this {times['embed'] / seconds:.2f}"
        print(f"{name:28} {seconds:7.1f} s, {work[name]:7.1f} s on a core; {ratio_}")
    stages = max(times["decode all, one thread"], times["infer all, 1 threads"])
    print(f"embed / the larger of the two stages, a core each: {times['embed'] / stages:.2f}")
    whole = (times["decode all, one thread"] + times["infer all, 1 threads"]) / cores
    print(f"embed / (both stages' core time shared by all cores): {times['embed'] / whole:.2f}")
    shutil.rmtree(out)


def made_up(dim: int) -> Callable[[int, int], np.ndarray]:
    """rows(count, seed) -> `[count, dim]` float32, L2-normalised."""
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((32, 128)) / np.sqrt(32)).astype(np.float32)
    second = (rng.standard_normal((128, dim)) / np.sqrt(128)).astype(np.float32)

    def rows(count: int, seed: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        out = np.tanh(2 * own.standard_normal((count, 32), np.float32) @ first) @ second
        out += np.float32(0.1) * own.standard_normal((count, dim), np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    return rows


def make(options: argparse.Namespace) -> None:
    """Write the made-up index and build its approximate index."""
    import pyarrow as pa

    rows, form = made_up(options.dim), schema(ABOUT, options.dim)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, options.rows, BLOCK):
            names = (f"/photos/album-{i // 500:05d}/IMG_{i:09d}.jpg" for i in range(start, start + BLOCK))
            yield from to_table(
                [ImageFile(n, 1, 1) for n in names], rows(BLOCK, 100 + start // BLOCK), form
            ).to_batches()

    location = str(options.folder / "made-up.lance")
    reader = pa.RecordBatchReader.from_batches(form, batches())
    print(f"{options.rows} rows written in {timed(lambda: import_lance().write_dataset(reader, location)):.0f} s")
    print(f"approximate index built in {timed(lambda: build_approximate(open_index(location))):.0f} s")
    folders = {f.name: sum(p.stat().st_size for p in f.rglob("*")) / options.rows for f in Path(location).iterdir()}
    print(", ".join(f"{name}: {size:.0f} bytes a row" for name, size in folders.items()))


def memory() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def search(options: argparse.Namespace) -> None:
    """Exact search beside the bare product over the mapped rows, in turn, and the approximate index."""
    location = str(options.folder / "made-up.lance")
    started = time.perf_counter()
    index = open_index(location)
    print(f"opened {len(index)} x {index.dim} in {time.perf_counter() - started:.2f} s")
    queries = made_up(index.dim)(options.queries, 7)
    exact: list[list[Found]] = [index.search(query, 10, exact=True) for query in queries[:1]]  # reads the file

    def product(query: np.ndarray) -> None:
        for page in index._pages or ():
            np.memmap(page.file, "<f4", "r", page.position, (page.rows, index.dim)) @ query

    turn = iter(queries[1:])
    current = [queries[0]]
    runs = {
        "exact": lambda: exact.append(index.search(current[0], 10, exact=True)),
        "product": lambda: product(current[0]),
    }
    times: dict[str, list[float]] = {"exact": [], "product": []}
    for query in turn:
        current[0] = query
        for name, seconds in paired(runs, 1, warm=0).items():
            times[name] += seconds
    found = ratio(times["exact"], times["product"])
    print(
        f"exact {1e3 * statistics.median(times['exact']):.0f} ms, product "
        f"{1e3 * statistics.median(times['product']):.0f} ms, ratio {found}; at most {memory():.2f} GB"
    )
    hits, seconds = 0, []
    for query, right in zip(queries, exact):
        start = time.perf_counter()
        near = index.search(query, 10)
        seconds.append(time.perf_counter() - start)
        hits += len({f.path for f in near} & {f.path for f in right})
    print(
        f"approximate: recall@10 {hits / 10 / len(exact):.3f}, median {1e3 * statistics.median(seconds[1:]):.1f} ms, "
        f"the first {1e3 * seconds[0]:.0f} ms; at most {memory():.2f} GB"
    )


def paths(options: argparse.Namespace) -> None:
    """Open an index with ten million paths of 200 characters; its embeddings are narrow, to spare the disk."""
    import pyarrow as pa

    location, form = str(options.folder / "paths.lance"), schema(ABOUT, 2)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, options.paths, 100_000):
            numbers = np.arange(start, start + 100_000)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(200_000, np.float32)), type=form.field(3).type)
            names = pa.array([f"/{'p' * 186}/{i:08d}.jpg" for i in numbers])
            yield pa.record_batch([names, pa.array(numbers), pa.array(numbers), flat], schema=form)

    shutil.rmtree(location, ignore_errors=True)
    import_lance().write_dataset(pa.RecordBatchReader.from_batches(form, batches()), location)
    code = (
        "import sys, time, resource; from pecore.index import open_index; start = time.perf_counter();"
        "index = open_index(sys.argv[1]); count = len(index);"
        "print(f'{count} rows open in {time.perf_counter() - start:.2f} s,', end=' ');"
        "print(f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at most')"
    )
    subprocess.run([sys.executable, "-c", code, location], check=True)
    writer = IndexWriter(location, ABOUT, 2)
    asked = [ImageFile(f"/{'p' * 186}/{i:08d}.jpg", i, i) for i in range(0, 2 * options.paths, options.paths // 500)]
    start = time.perf_counter()
    known = int(writer.known(asked).sum())
    print(f"{known} of {len(asked)} images known in {time.perf_counter() - start:.1f} s; at most {memory():.2f} GB")
    took = timed(lambda: writer.add(asked[-256:], np.ones((256, 2), np.float32)))
    print(f"a commit of 256 rows: {took:.2f} s")
    shutil.rmtree(location)


WRITE = """
import sys
import numpy as np
from pecore.errors import InputError
from pecore.index_writer import ImageFile, IndexWriter
try:
    writer = IndexWriter(sys.argv[1], {"space": {"fingerprint": "f"}}, 1024)
    first = len(writer) // 16
    for i in range(first, first + 100_000):
        writer.add([ImageFile(f"{i}-{j}", 1, 1) for j in range(16)], np.full((16, 1024), 1 + i, np.float32))
        print(i, flush=True)
except InputError as error:
    print("refused:", error, flush=True)
"""


def check(location: str, committed: int) -> Index:
    """Whether every row that was reported committed is there once, and search works."""
    index = open_index(location)
    names = index.all_paths()
    assert len(names) == len(set(names)), "a row is there twice"
    assert {f"{i}-{j}" for i in range(committed + 1) for j in range(16)} <= set(names), "a committed row is lost"
    assert len(index.search(np.ones(1024, np.float32), 3)) == min(3, len(names)), "search fails"
    return index


def crash(options: argparse.Namespace) -> None:
    """SIGKILL at random moments of writing, twenty times; then write until the disk is full."""
    location, committed = str(options.folder / "crash.lance"), -1
    shutil.rmtree(location, ignore_errors=True)
    rng = random.Random(options.seed)
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", WRITE, location], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            time.sleep(0.6 + rng.uniform(0, 2))
            run.send_signal(signal.SIGKILL)
            committed = max([committed, *(int(line) for line in run.stdout.read().split("\n")[:-1])])
        if Path(location).exists():
            rows = len(check(location, committed))
    print(f"20 times killed: {16 * (committed + 1)} rows reported committed, {rows} there, none twice, search works")
    shutil.rmtree(location)
    if options.full:
        location = str(options.full / "full.lance")
        shutil.rmtree(location, ignore_errors=True)
        for _ in range(2):  # and again, on the full disk
            run_ = subprocess.run(
                [sys.executable, "-c", WRITE, location], stdout=subprocess.PIPE, text=True, check=True
            )
            lines = run_.stdout.splitlines()
            committed = max([committed if _ else -1, *(int(line) for line in lines if line.isdigit())])
            print(lines[-1])
            print(f"full disk: {16 * (committed + 1)} rows committed, {len(check(location, committed))} there")


def ray(options: argparse.Namespace) -> None:
    """Two actors on a local cluster, one killed half-way, beside the local engine."""
    import ray as ray_module

    from pecore import embed_ray

    folder = options.folder / "photographs"
    photographs(folder, options.images)
    images = list_images([str(folder)]).images[: options.images]
    encoder = PerceptionEncoder(options.bundle, threads=1)
    seconds = {}
    for engine in ("local", "ray"):
        location = options.folder / f"{engine}.lance"
        shutil.rmtree(location, ignore_errors=True)
        writer = IndexWriter(str(location), about_rows(encoder), encoder.dim)
        if engine == "local":
            run = partial(embed_images, encoder=encoder, writer=writer)
        else:
            ray_module.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            embed_ray.BATCH_ROWS = 16
            cluster = embed_ray.Cluster(workers=2)
            run = partial(
                embed_ray.embed_images, embedder=Embedder(options.bundle, threads=1), writer=writer, cluster=cluster
            )
            threading.Thread(target=kill_an_actor, args=(seconds["local"] / 2,), daemon=True).start()
        seconds[engine] = timed(lambda images=images, writer=writer, run=run: update_index(images, writer, run))
    ours, local = (open_index(options.folder / f"{engine}.lance") for engine in ("ray", "local"))
    rows = [dict(zip(index.all_paths(), index.embeddings())) for index in (ours, local)]
    same = rows[0].keys() == rows[1].keys() and len(ours) == len(local)
    worst = max(float(np.abs(rows[0][path] - rows[1][path]).max()) for path in rows[1])
    print(
        f"{len(local)} rows; local {seconds['local']:.0f} s, Ray {seconds['ray']:.0f} s with one of two actors killed"
    )
    print(f"the same paths, each once: {same}; largest difference {worst:.1e}")
    if not same:
        raise InputError("Ray's rows are not those of the local engine")


def kill_an_actor(after: float) -> None:
    """SIGKILL to the first of Ray Data's actors that works, some seconds after it is there."""
    while True:
        found = subprocess.run(["pgrep", "-f", "^ray::.*MapWorker"], stdout=subprocess.PIPE, text=True, check=False)
        if found.stdout.split():
            break
        time.sleep(0.2)
    time.sleep(after)
    mine = [int(pid) for pid in found.stdout.split()]
    os.kill(mine[0], signal.SIGKILL)
    print(f"killed the actor with process id {mine[0]}")


PARTS = {part.__name__: part for part in (pipeline, make, search, paths, crash, ray)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--folder", type=Path, help="where to write; a folder of its own by default, deleted after")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--turn", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--paths", type=int, default=10_000_000)
    parser.add_argument("--full", type=Path, help="a small file system to fill, such as a tmpfs of 64 MB")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.folder:
        PARTS[options.part](options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        PARTS[options.part](options)


if __name__ == "__main__":
    main()
