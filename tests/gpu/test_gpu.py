"""`validate.gpu` on the real ML Drift delegate, with graphs small enough for a software driver."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import skimage.data
import torch
from ai_edge_litert import schema_py_generated as schema
from skimage.transform import resize

from pecore.errors import InputError
from pecore.runtime import open_model
from pecore.validate.gpu import Adapter, RefusedOp, Verdict, run_on_gpu

pytestmark = pytest.mark.gpu


class Stem(torch.nn.Module):
    """A patch embedding, a LayerNorm, an MLP and a mean: something of everything that rounds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 32, kernel_size=16, stride=16)
        self.norm = torch.nn.LayerNorm(32)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 16))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(image).permute(0, 2, 3, 1).reshape(1, 16, 32)
        return self.mlp(self.norm(tokens)).mean(1)


def photo(name: str) -> np.ndarray:
    """A photograph as [1, 3, 64, 64] float32 in [-1, 1]."""
    pixels = resize(getattr(skimage.data, name)(), (64, 64), anti_aliasing=True)
    return (pixels.transpose(2, 0, 1)[None] * 2 - 1).astype(np.float32)


@pytest.fixture(scope="session")
def stem(convert) -> Path:
    return convert("stem", Stem(), torch.from_numpy(photo("astronaut")))


@pytest.fixture
def photos() -> list[dict[str, np.ndarray]]:
    return [{"image": photo(name)} for name in ("astronaut", "chelsea", "coffee")]


def refused_ops(run) -> set[str]:
    return {refusal.op for refusal in run.refused}


# fp32: both sides sum a few hundred products in another order. fp16 has 11 bits of mantissa, and the outputs are < 1.
@pytest.mark.parametrize(("compute", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_fully_resident_and_right(stem, photos, adapter: Adapter, capfd, compute, tolerance):
    run = run_on_gpu(stem, photos, compute=compute)
    assert run.verdict is Verdict.RAN, run.detail
    assert (run.ops_on_gpu, run.refused, run.adapter) == (run.ops, (), adapter)
    assert run.ops > 5
    assert run.compile_s > 0
    assert len(run.run_s) == len(run.outputs) == 3
    for arrays, outputs in zip(photos, run.outputs):
        expected = Stem()(torch.from_numpy(arrays["image"])).detach().numpy()
        np.testing.assert_allclose(outputs["embedding"], expected, atol=tolerance, rtol=0)
    assert "Selected adapter" in run.log
    assert capfd.readouterr() == ("", ""), "the delegate's chatter got onto the screen"


def test_default_precision_is_not_fp32(stem, photos):
    default, full = run_on_gpu(stem, photos[:1]), run_on_gpu(stem, photos[:1], compute="fp32")
    assert np.abs(default.outputs[0]["embedding"] - full.outputs[0]["embedding"]).max() > 1e-6


def test_without_inputs_a_graph_still_runs(stem):
    run = run_on_gpu(stem)
    assert run.verdict is Verdict.RAN
    assert run.outputs[0]["embedding"].shape == (1, 16)


def test_refused_ops_are_named_with_the_delegates_reason(convert):
    class RankFive(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(64, 64)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            image = self.linear(image).reshape(1, 8, 4, 4, 4).permute(0, 2, 1, 4, 3)
            return self.linear(image.reshape(1, 8, 64))

    run = run_on_gpu(convert("rank5", RankFive(), torch.randn(1, 8, 64)))
    assert run.verdict is Verdict.REFUSED
    assert refused_ops(run) == {"RESHAPE", "TRANSPOSE"}
    assert any("dimensions must be less than 5" in refusal.reason for refusal in run.refused)
    assert 0 < run.ops_on_gpu < run.ops
    assert run.outputs == ()
    assert f"{run.ops_on_gpu} of {run.ops}" in run.detail


def test_l2_normalization_is_refused(convert):
    class Normalise(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / torch.sqrt((image * image).sum(-1, keepdim=True))

    run = run_on_gpu(convert("l2", Normalise(), torch.randn(1, 64)))
    assert run.verdict is Verdict.REFUSED
    assert run.refused == (RefusedOp("L2_NORMALIZATION", "Operation is not supported."),)
    assert (run.ops_on_gpu, run.ops) == (0, 1)


def test_int64_is_refused(convert, tmp_path):
    class Count(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (image.to(torch.int32) + 1).to(torch.float32)

    # litert-torch writes int32 where torch says int64, so the flaw has to be put in by hand.
    path = convert("count", Count(), torch.randn(1, 64))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph, int32, int64 = model.subgraphs[0], schema.TensorType.INT32, schema.TensorType.INT64
    for tensor in graph.tensors:
        if tensor.type == int32:
            tensor.type = int64
            buffer = model.buffers[tensor.buffer]
            if buffer.data is not None:
                buffer.data = np.frombuffer(bytes(buffer.data), np.int32).astype(np.int64).view(np.uint8)
    for op in graph.operators:
        if isinstance(op.builtinOptions, schema.CastOptionsT):
            options = op.builtinOptions
            options.inDataType = int64 if options.inDataType == int32 else options.inDataType
            options.outDataType = int64 if options.outDataType == int32 else options.outDataType
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    wide = tmp_path / "int64.tflite"
    wide.write_bytes(builder.Output())
    run = run_on_gpu(wide)
    assert run.verdict is Verdict.REFUSED
    assert any("INT64" in refusal.reason for refusal in run.refused)


def test_a_crash_in_the_delegate_is_a_verdict(convert):
    from litert_torch.hlfb import StableHLOCompositeBuilder

    class Composite(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            builder = StableHLOCompositeBuilder("odml.rms_norm", {"epsilon": 1e-5})
            image = builder.mark_inputs(image)
            return builder.mark_outputs(image * torch.rsqrt((image * image).mean(-1, keepdim=True) + 1e-5))

    run = run_on_gpu(convert("composite", Composite(), torch.randn(1, 8, 64)))
    assert run.verdict is Verdict.CRASHED
    assert run.signal == "SIGSEGV"
    assert "compiling" in run.detail
    assert run.adapter is not None


def test_outputs_that_are_the_cpus_to_the_last_bit_are_a_hint_and_no_verdict(stem, photos):
    """The CPU's never are, where fp16 rounds; the delegate's own are, and its verdict stays."""
    cpu = open_model(stem)
    for compute in ("fp16", "fp32"):
        honest = run_on_gpu(stem, photos, compute=compute, cpu_outputs=[cpu.run(arrays) for arrays in photos])
        assert (honest.verdict, honest.bit_equal) == (Verdict.RAN, False)


def test_an_input_that_does_not_fit_is_the_callers_error(stem):
    with pytest.raises(InputError, match=r"\[1, 3, 64, 64\] float32"):
        run_on_gpu(stem, [{"image": np.zeros((1, 3, 32, 32), np.float32)}])


# The child must not outlive its run, whoever ends it. A run of `slow` takes longer than any test should wait.


class Slow(torch.nn.Module):
    """34 GFLOP for 4 KB of input: 34 s on lavapipe with 2 cores, and the tests ask for a hundred passes."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.mix = torch.nn.Linear(1, 1024), torch.nn.Linear(1024, 1024)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.widen(image)
        for _ in range(16):
            image = torch.relu(self.mix(image))
        return image.mean(1)


@pytest.fixture(scope="session")
def slow(convert) -> Path:
    return convert("slow", Slow(), torch.zeros(1, 1024, 1))


SLOW_INPUTS = [{"image": np.zeros((1, 1024, 1), np.float32)}] * 100


def children_of(pid: int) -> list[int]:
    """Live `validate.gpu_child` processes that were started by a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:  # gone in the meantime
            continue
        if b"pecore.validate.gpu_child" in arguments and arguments[-1] == str(pid).encode():
            found.append(int(folder.name))
    return found


def at_work(pid: int) -> list[int]:
    """Those of `children_of` a process that have got as far as the delegate's native code."""
    return [child for child in children_of(pid) if "WebGpuAccelerator" in Path(f"/proc/{child}/maps").read_text()]


def wait_for(condition: Callable[[], object]) -> object:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited 60 s in vain"
        time.sleep(0.02)
    return value


def test_timed_out(slow):
    run = run_on_gpu(slow, SLOW_INPUTS, timeout_s=2)
    assert run.verdict is Verdict.TIMED_OUT
    assert run.outputs == ()
    assert not children_of(os.getpid())


def signal_when_the_child_is_there(pick: Callable[[int], int], number: signal.Signals) -> threading.Thread:
    """In the background, wait for this process's child and send a signal to `pick(child)`; again while the child lives,
    as a person would: a KeyboardInterrupt that is raised inside a destructor is lost."""

    def send() -> None:
        (child,) = wait_for(lambda: at_work(os.getpid()))
        while child in children_of(os.getpid()):
            os.kill(pick(child), number)
            time.sleep(3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_child_killed_from_outside(slow):
    killer = signal_when_the_child_is_there(lambda child: child, signal.SIGKILL)
    run = run_on_gpu(slow, SLOW_INPUTS)
    killer.join()
    assert run.verdict is Verdict.CRASHED
    assert run.signal == "SIGKILL"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to Ctrl-C: what a shell starts with `&` has it ignored, and so has all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_no_child_is_left_after_a_keyboard_interrupt(slow, interruptible):
    interrupter = signal_when_the_child_is_there(lambda child: os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_on_gpu(slow, SLOW_INPUTS)
    interrupter.join()
    assert not children_of(os.getpid())


@pytest.fixture
def busy_parent(slow, tmp_path) -> Iterator[subprocess.Popen]:
    """Another Python in the middle of a run on the delegate."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from pecore.validate.gpu import run_on_gpu\n"
        "run_on_gpu(sys.argv[1], [{'image': np.zeros((1, 1024, 1), np.float32)}] * 100)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, script, slow], env=environment)
    yield parent
    parent.kill()
    parent.wait()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_is_left_when_the_parent_is_killed(busy_parent, ending):
    wait_for(lambda: at_work(busy_parent.pid))
    busy_parent.send_signal(ending)
    assert busy_parent.wait(60) == -ending
    wait_for(lambda: not children_of(busy_parent.pid))
