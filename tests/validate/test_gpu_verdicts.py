"""What `validate.gpu` makes of a child's remains: logs recorded from ai-edge-litert 2.3.0; needs no Vulkan driver."""

import numpy as np
import pytest

from pecore.errors import InputError
from pecore.runtime import open_model
from pecore.validate.child import LOG_LIMIT, load_arrays, save_arrays
from pecore.validate.gpu import (
    NO_ADAPTER_REMEDY,
    RefusedOp,
    Verdict,
    classify_run,
    one_op_model,
    parse_adapter,
    parse_refusals,
    run_on_gpu,
)

KERNEL_FAILED = (
    "E0000 00:00:1795591348.805120    5532 delegate_webgpu.cc:478] Failed to create DelegateKernelLiteRt: "
    "INVALID_ARGUMENT: Shape mismatch: {bhwc, {8, 1, 1, 8}} vs {bhwc, {1, 1, 8, 8}}\n"
    "=== Source Location Trace: ===\n"
    "ERROR: Failed to initialize kernel.\n"
    "ERROR: Restored original execution plan after delegate application failure.\n"
)
LAVAPIPE = (
    "I0000 00:00:1795252089.261393    4900 environment.cc:532] Selected adapter: llvmpipe (LLVM 15.0.6, 256 bits), "
    "arch=software, vendor=mesa, backend=Vulkan, adapterType=CPU / Software\n"
)
REFUSED = LAVAPIPE + (
    "ERROR: Following operations are not supported by GPU delegate:\n"
    "RESHAPE: Tensor dimensions must be less than 5. __main__.Out/__main__.M_m;3\n"
    "I0000 00:00:1795252089.274899    4900 delegate_webgpu.cc:751] # of threads to upload weights = 0\n"
    "TRANSPOSE: Permutation for transpose is invalid.\n"
    "2 operations will run on the GPU, and the remaining 4 operations will run on the CPU.\n"
)
REFUSED_ALL = LAVAPIPE + (
    "ERROR: Following operations are not supported by GPU delegate:\n"
    "L2_NORMALIZATION: Operation is not supported.\n"
    "No operations will run on the GPU, and all 1 operations will run on the CPU.\n"
)
GAVE_UP_LOG = (
    "RuntimeError: Failed to read from tensor buffer: ERROR: [tensor_buffer.cc:711]\n"
    "\u2514 Failed to lock custom tensor buffer\n"
)
MESA_22 = (
    "INFO: [delegate_webgpu.cc:342] Create WebGPU environment (use_low_power=0, enable_host_mapped_pointer=1)\n"
    "Warning: Vulkan shaderUniform*ArrayDynamicIndexing required.\n"
    " - While initializing adapter (backend=BackendType::Vulkan)\n"
    "ERROR: [delegate_webgpu.cc:359] Failed to initialize WebGPU environment: INTERNAL: No adapters found\n"
)


@pytest.fixture
def one_op(tmp_path):
    path = tmp_path / "one_op.tflite"
    path.write_bytes(one_op_model())
    return path


def test_adapter_is_read_from_the_log_and_its_driver_from_vulkan():
    adapter = parse_adapter(LAVAPIPE, {"llvmpipe (LLVM 15.0.6, 256 bits)": "llvmpipe, Mesa 25.0.7"})
    assert adapter.name == "llvmpipe (LLVM 15.0.6, 256 bits)"
    assert (adapter.kind, adapter.software, adapter.driver) == ("CPU / Software", True, "llvmpipe, Mesa 25.0.7")
    hardware = LAVAPIPE.replace("llvmpipe (LLVM 15.0.6, 256 bits)", "Some GPU").replace(
        "CPU / Software", "Discrete GPU"
    )
    assert not parse_adapter(hardware, {}).software
    assert parse_adapter(MESA_22, {}) is None


def test_refusals_keep_the_delegates_reason_and_skip_lines_of_the_log():
    refused, on_gpu = parse_refusals(REFUSED)
    assert refused == (
        RefusedOp("RESHAPE", "Tensor dimensions must be less than 5. __main__.Out/__main__.M_m;3"),
        RefusedOp("TRANSPOSE", "Permutation for transpose is invalid."),
    )
    assert on_gpu == 2
    assert parse_refusals(REFUSED_ALL) == ((RefusedOp("L2_NORMALIZATION", "Operation is not supported."),), 0)
    assert parse_refusals(LAVAPIPE) == ((), None)


@pytest.mark.parametrize(
    ("returncode", "result", "log", "verdict", "words"),
    [
        (0, {"stage": "done", "ops": 6, "run_s": [0.1]}, LAVAPIPE, Verdict.RAN, "6 of 6 ops"),
        (0, {"stage": "done", "ops": 6, "run_s": [0.1]}, "", Verdict.NOT_ON_GPU, "never named"),
        (0, {"stage": "compiling", "ops": 6, "refused": "-"}, REFUSED, Verdict.REFUSED, "2 of 6 ops on the GPU"),
        (0, {"stage": "compiling", "ops": 6, "refused": "out of memory"}, LAVAPIPE, Verdict.REFUSED, "out of memory"),
        (
            0,
            {"stage": "compiling", "refused": "-"},
            LAVAPIPE + KERNEL_FAILED,
            Verdict.REFUSED,
            "words: Failed to create",
        ),
        (0, {"stage": "running", "failed": "no dtype"}, LAVAPIPE, Verdict.FAILED, "it failed while running: no dtype"),
        (0, {"stage": "compiling", "ops": 6, "refused": "-"}, MESA_22, Verdict.NO_ADAPTER, "ArrayDynamicIndexing"),
        (-11, {"stage": "compiling", "ops": 6}, LAVAPIPE, Verdict.CRASHED, "SIGSEGV while compiling"),
        (1, {"stage": "running input 1 of 1"}, "device lost", Verdict.CRASHED, "code 1 while running input 1"),
        (None, {"stage": "compiling"}, LAVAPIPE, Verdict.TIMED_OUT, "after 7 s while compiling"),
        (1, {"stage": "running input 1 of 1"}, LAVAPIPE + GAVE_UP_LOG, Verdict.GAVE_UP, "nothing about the model"),
    ],
)
def test_verdicts(returncode, result, log, verdict, words):
    run = classify_run(returncode, result, log, "fp16", 7)
    assert run.verdict is verdict
    assert words in run.detail


def test_a_long_log_loses_its_middle():
    log = classify_run(0, {"stage": "done", "ops": 1}, LAVAPIPE + "x" * 3 * LOG_LIMIT + "the end", "fp16", 7).log
    assert log.startswith(LAVAPIPE)
    assert log.endswith("the end")
    assert len(log) < LOG_LIMIT + 100


def test_no_adapter_names_the_remedy(one_op, monkeypatch):
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, "/nonexistent/icd.json")
    run = run_on_gpu(one_op)
    assert run.verdict is Verdict.NO_ADAPTER
    assert NO_ADAPTER_REMEDY in run.detail
    assert run.adapter is None


def test_a_run_without_time_is_stopped(one_op):
    assert run_on_gpu(one_op, timeout_s=0.001).verdict is Verdict.TIMED_OUT


@pytest.mark.parametrize("content", [b"", b"no flatbuffer at all", "truncated"])
def test_a_file_that_is_no_model_is_the_callers_error(one_op, content):
    one_op.write_bytes(one_op.read_bytes()[:-40] if content == "truncated" else content)
    with pytest.raises(InputError, match=r"one_op\.tflite is (empty|not a \.tflite|damaged)"):
        run_on_gpu(one_op)


def test_a_missing_file_and_a_wrong_compute_are_the_callers_errors(one_op, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        run_on_gpu(tmp_path / "nowhere.tflite")
    with pytest.raises(InputError, match="bf16"):
        run_on_gpu(one_op, compute="bf16")


def test_the_probes_graph_is_a_model(one_op):
    x = np.array([[-2, 0, 1, 8]], np.float32)
    np.testing.assert_allclose(open_model(one_op).run({"x": x})["y"], 1 / (1 + np.exp(-x)), rtol=1e-6)


def test_arrays_cross_over_under_any_name(tmp_path):
    arrays = {"serving_default/a:0": np.arange(6, dtype=np.int32).reshape(2, 3), "file": np.float32([1.5])}
    save_arrays(tmp_path / "arrays.npz", arrays)
    loaded = load_arrays(tmp_path / "arrays.npz")
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
