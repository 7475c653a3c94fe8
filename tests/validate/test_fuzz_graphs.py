"""No `.tflite` that a user can hand in ends in a traceback: seeded damage to bytes and to schema fields.

What is read in Python (`inspect`) is tried here. What LiteRT's own code loads and runs (`validate`) is tried in a
child, because damage may take that process down, which is the library's to mend: Python's exceptions alone count.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pecore.cli.inspect import inspect
from pecore.errors import InputError
from pecore.validate.graph import constant_bytes, macs, max_rank, op_counts, read_graphs
from pecore.validate.localize import steps
from pecore.validate.rules import check_graphs, runtimes
from tests.graph_builder import GraphBuilder

SEED = 20261125
FLIPPED, CHANGED, RUN = 400, 400, 60
EXTREMES = (-(2**31), -77, -1, 0, 1, 2, 3, 5, 77, 127, 128, 255, 2**31 - 1)


def whole(path: Path) -> bytes:
    """A graph with something of everything: weights, padding, a convolution, several outputs, two signatures."""
    b, other = GraphBuilder(), GraphBuilder()
    x, padded = b.tensor(1, 4, 4, 8, signature=(-1, 4, 4, 8)), b.tensor(1, 5, 4, 8)
    b.op("PAD", [x, b.tensor(4, 2, dtype="int32", data=[[0, 0], [1, 0], [0, 0], [0, 0]])], padded, options="PadOptions")
    half, weights, y = b.tensor(8, 1, 1, 8, dtype="float16", data=0.5), b.tensor(8, 1, 1, 8), b.tensor(1, 5, 4, 8)
    b.op("DEQUANTIZE", [half], weights, options="DequantizeOptions")
    b.op("CONV_2D", [padded, weights, b.tensor(8, data=1)], y, options="Conv2DOptions", strideW=1, strideH=1)
    flat, mean, total = b.tensor(1, 20, 8), b.tensor(1, 8), b.tensor(1, 1)
    b.op(
        "RESHAPE", [y, b.tensor(3, dtype="int32", data=[1, 20, 8])], flat, options="ReshapeOptions", newShape=[1, 20, 8]
    )
    b.op("MEAN", [flat, b.tensor(1, dtype="int32", data=1)], mean, options="ReducerOptions")
    b.op("SUM", [mean, b.tensor(1, dtype="int32", data=1)], total, options="ReducerOptions", keepDims=True)
    u, v = other.tensor(1, 6, dtype="int8", scales=1), other.tensor(1, 6)
    other.op("DEQUANTIZE", [u], v, options="DequantizeOptions")
    return b.write(path, [x], [mean, total], second=("decode", other, [u], [v])).read_bytes()


def flipped(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, or the file cut short."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        damaged[rng.randrange(8, len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(8, len(damaged))] if rng.random() < 0.2 else damaged)


def fields(table: object) -> Iterator[tuple[object, str]]:
    """Every table of a model in the schema's object form, with the names of its fields."""
    for name, value in vars(table).items():
        yield table, name
        for inner in value if isinstance(value, list) else [value]:
            if hasattr(inner, "__dict__"):
                yield from fields(inner)


def changed(content: bytes, rng: random.Random) -> bytes | None:
    """One to three fields set to what they may not be; None where the schema can't write that."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for table, name in rng.sample(list(fields(model)), rng.randint(1, 3)):
        value = getattr(table, name)
        if isinstance(value, list | np.ndarray) and len(value) and not hasattr(value[0], "__dict__"):
            values = [int(v) for v in value]
            values[rng.randrange(len(values))] = rng.choice(EXTREMES)
            setattr(table, name, values if rng.random() < 0.8 else values * 2)
        elif isinstance(value, list):
            setattr(table, name, value[:-1] if rng.random() < 0.7 else None)
        elif isinstance(value, bool | int | float):
            setattr(table, name, rng.choice(EXTREMES))
        else:
            setattr(table, name, None)
    builder = flatbuffers.Builder(1024)
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # of the schema's writer: such a file can't be made this way
        return None
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[bytes]:
    rng = random.Random(SEED)
    content = whole(tmp_path_factory.mktemp("fuzz") / "whole.tflite")
    files = [flipped(content, rng) for _ in range(FLIPPED)]
    files += [damaged for _ in range(CHANGED) if (damaged := changed(content, rng)) is not None]
    assert len(files) > FLIPPED + CHANGED / 4
    return files


def test_every_file_ends_in_a_report_or_an_input_error(corpus, tmp_path):
    path, sentences, ends = tmp_path / "damaged.tflite", [], {"report": 0, "InputError": 0}
    for i, content in enumerate(corpus):
        path.write_bytes(content)
        try:
            graphs = read_graphs(path)
            for runtime in (runtimes()[0], runtimes()[-1]):
                check_graphs(graphs, runtime)
            op_counts(*graphs), max_rank(*graphs), macs(*graphs), constant_bytes(*graphs)
            for graph in graphs:
                steps(graph)
            ends["report"] += 1
        except InputError as error:
            ends["InputError"] += 1
            sentences.append(str(error))
        except Exception as error:
            pytest.fail(f"file {i} of seed {SEED}: {type(error).__name__}: {error}")
    assert min(ends.values()) > 50, ends
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_inspect_itself_survives(corpus, tmp_path, capsys):
    """The verb, on a few: what it prints, and its JSON."""
    import typer

    path = tmp_path / "damaged.tflite"
    for content in corpus[:: len(corpus) // 20]:
        path.write_bytes(content)
        for as_json in (True, False):
            try:
                with pytest.raises(typer.Exit) as ended:
                    inspect(path, as_json=as_json)
            except InputError:
                continue
            assert ended.value.exit_code in (0, 1)
            out = capsys.readouterr().out
            if as_json:
                json.loads(out)


CHILD = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)  # a shape may ask for any size
from pecore.errors import InputError
from pecore.validate.bundle import ValidationOptions, check_file
for path in sorted(Path(sys.argv[1]).glob("*.tflite"))[int(sys.argv[2]):]:
    print(path.name, flush=True)
    try:
        check_file(path, None, ValidationOptions(gpu="skip"), lambda line: None)
    except InputError:
        pass
"""


def test_no_file_ends_validate_in_a_traceback(corpus, tmp_path):
    chosen = corpus[:: len(corpus) // RUN]
    for i, content in enumerate(chosen):
        (tmp_path / f"{i:03}.tflite").write_bytes(content)
    begun = 0
    while begun < len(chosen):  # a child for each crash, and one for the rest
        child = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path, str(begun)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
        )
        assert "Traceback" not in child.stderr, child.stderr[-2000:]
        begun += len(child.stdout.split())
        if child.returncode == 0:
            break
        assert child.returncode < 0, (child.returncode, child.stderr[-500:])
    assert begun == len(chosen)
