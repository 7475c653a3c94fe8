"""What `validate.npu` makes of a compiler's remains: output recorded from ai-edge-litert 2.3.0 with QNN 2.51; needs
neither."""

import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest

from pecore.errors import GateError, InputError
from pecore.validate import npu, npu_gate
from pecore.validate.child import run_child
from pecore.validate.gpu import RefusedOp, one_op_model
from pecore.validate.npu import LICENCE_VARIABLE, NpuOptions, compile_for_npu, prepare, unavailable
from pecore.validate.npu_gate import compile_check, npu_gates, run_check
from pecore.validate.npu_verdict import (
    Context,
    NpuBuild,
    NpuRun,
    Verdict,
    classify_build,
    classify_npu_run,
    parse_refusals,
)

APPLYING = "INFO: [compiler_plugin.cc:948] Applying plugin with SDK version: v2.51.0.260929181845\n"
WHOLE = APPLYING + (
    "INFO: [compiler_plugin.cc:742] Partitioned subgraph<0>, selected 494 ops, from a total of 494 ops. resulted in 1 "
    "partitions.\n"
)
SPLIT = APPLYING + (
    "ERROR: [qnn_manager.cc:480] \n"
    "QNN op validation failed: 'Conv2d_1' (type=Conv2d)\n"
    "  Inputs:\n"
    '    [0] name="0_litert_162" dtype=QNN_DATATYPE_FLOAT_32 dims=[1,384,384,3] (no quantization)\n'
    '    [1] name="4_qnn" dtype=QNN_DATATYPE_SFIXED_POINT_8 dims=[16,16,3,192] per-channel-quant\n'
    "  Outputs:\n"
    '    [0] name="3_litert_163" dtype=QNN_DATATYPE_FLOAT_32 dims=[1,24,24,192] (no quantization)\n'
    "  QNN error=3110. See the QNN validator log lines above for the specific reason.\n"
    "ERROR: [qnn_compiler_plugin.cc:538] \n"
    "LiteRT Op #1 'Conv2d' (code=3) is not supported in Qualcomm Compiler.\n"
    "INFO: [compiler_plugin.cc:742] Partitioned subgraph<0>, selected 464 ops, from a total of 465 ops. resulted in 2 "
    "partitions.\n"
)
SPLIT_OUT = (
    "     0.0ms [ ERROR ]   <E> [4294967295] has incorrect Rank 6.\n"
    "     0.0ms [ ERROR ]   <E> QnnBackend_validateOpConfig failed 3110\n"
    "     0.0ms [ ERROR ]   <E> Failed to validate op ElementWiseNeuron_0 with error 0xc26\n"
    "     0.0ms [ ERROR ]   <E> Unsupported input/output datatypes requested for the HTP Op 'Conv2d' in the node "
    "'Conv2d_1'. There is a mismatch for the combination of inputs and outputs.\n"
    "     0.0ms [ ERROR ]   <E> Requested I/O datatype set:\n"
    "     0.0ms [ ERROR ]   <E> QnnBackend_validateOpConfig failed 3110\n"
    "     0.0ms [ ERROR ]   <E> Failed to validate op Conv2d_1 with error 0xc26\n"
    "     0.0ms [ ERROR ]   <E> unexpected GraphHtpSettings option 66\n"
)
WHY = (
    "Unsupported input/output datatypes requested for the HTP Op 'Conv2d' (FLOAT_32 [1,384,384,3], SFIXED_POINT_8 "
    "[16,16,3,192], FLOAT_32 [1,24,24,192])"
)
NO_TRANSLATION = (
    "ERROR: [qnn_compose_graph.cc:1722] \n"
    "LiteRT Op #1 'Where' (code=109) is not supported in Qualcomm Compiler.\n"
    "WARNING: [qnn_compose_graph.cc:1647] No custom package registered for custom op, won't create QNN custom op.\n"
)
NONE_TAKEN = (
    APPLYING + "INFO: Partitioned subgraph<0>, selected 0 ops, from a total of 1 ops. resulted in 0 partitions.\n"
)
SM8350_OUT = (
    "     0.0ms [ ERROR ]   <E> unexpected GraphHtpSettings option 66\n"
    "     0.0ms [ ERROR ]  tcm_migration.cc:2207::ERROR:no properties registered for q::QNN_Gelu\n"
    "     0.0ms [ ERROR ]   <E> RouterX86 graph prepare failed 12\n"
)
UNKNOWN = APPLYING + "ERROR: [qnn_compiler_plugin.cc:101] Unexpected SoC model: SM9999\n"
NOT_LOADED = (
    "Could not load shared library /site/libLiteRtCompilerPlugin_Qualcomm.so: libQnnLpai.so: cannot open shared object "
    "file: No such file or directory.\n"
)
ONE_CONTEXT = Context(graphs=1, partitions=1, ops_left=0, bytes=14_499_840)
THREADS = "     0.0ms [ ERROR ]  Error creating thread: 11\n"


@pytest.mark.parametrize(
    ("returncode", "out", "err", "context", "verdict", "detail"),
    [
        (0, "", WHOLE, ONE_CONTEXT, Verdict.COMPILED, "494 of 494 ops on SM8850"),
        (0, SPLIT_OUT, SPLIT, Context(1, 2, 1, 9), Verdict.REFUSED,
         f"464 of 465 ops on SM8850, in 2 partitions; refused: CONV_2D ({WHY})"),
        (0, "", WHOLE, Context(1, 1, 3, 9), Verdict.REFUSED, "491 of 494 ops on SM8850, in 1 partition; one was"),
        (0, "", WHOLE, Context(1, 2, 0, 9), Verdict.REFUSED, "494 of 494 ops on SM8850, in 2 partitions; one was"),
        (0, "", WHOLE, Context(2, 2, 0, 9), Verdict.COMPILED, "494 of 494 ops on SM8850"),
        (1, "", NONE_TAKEN, None, Verdict.REFUSED, "0 of 1 ops on SM8850"),
        (6, SM8350_OUT, WHOLE, None, Verdict.FAILED, "494 of 494 ops for SM8850 and ended with exit code 6; its own "
         "words: no properties registered for q::QNN_Gelu / RouterX86 graph prepare failed 12"),
        (0, "", WHOLE, None, Verdict.FAILED, "ended with no context"),
        (0, "", WHOLE, Context(1, 1, 0, 0), Verdict.FAILED, "ended with no context"),
        (1, "", UNKNOWN, None, Verdict.UNKNOWN_CHIP, "no chip that Qualcomm's compiler knows; give one like"),
        (6, "", NOT_LOADED, None, Verdict.UNAVAILABLE, "libQnnLpai.so: cannot open shared object file"),
        (-11, "", WHOLE, None, Verdict.CRASHED, "died of SIGSEGV while compiling for SM8850"),
        (None, "", APPLYING, None, Verdict.TIMED_OUT, "stopped after 5 s"),
        (6, "Exception during graph prepare stage 1. std::bad_alloc", WHOLE, None, Verdict.OUT_OF_MEMORY, "bad_alloc"),
        (1, THREADS, NONE_TAKEN, None, Verdict.OUT_OF_MEMORY, "Error creating thread"),
    ],
)  # fmt: skip
def test_build_verdicts(returncode, out, err, context, verdict, detail):
    build = classify_build(returncode, out, err, "SM8850", context, 5)
    assert build.verdict is verdict
    assert detail in build.detail
    assert build.signal == ("SIGSEGV" if verdict is Verdict.CRASHED else None)
    assert build.qnn_version == (None if err is NOT_LOADED else "2.51.0")


def test_what_the_compiler_says_it_selected_is_no_verdict():
    """A chip that takes every op and then can't compile them: SM8350 with the towers' GELU."""
    assert classify_build(6, SM8350_OUT, WHOLE, "SM8350", None, 5).ops_on_npu == 494
    assert classify_build(6, SM8350_OUT, WHOLE, "SM8350", ONE_CONTEXT, 5).verdict is Verdict.FAILED


def test_refusals_keep_the_compilers_reason():
    assert parse_refusals(SPLIT_OUT, SPLIT) == (RefusedOp("CONV_2D", WHY),)
    assert parse_refusals("", NO_TRANSLATION) == (
        RefusedOp("WHERE", "LiteRT's plugin has no translation for it"),
        RefusedOp("CUSTOM", "no translation of it was given"),
    )
    assert parse_refusals("", WHOLE) == ()


@pytest.mark.parametrize(
    ("returncode", "result", "log", "verdict", "detail"),
    [
        (0, {"stage": "done", "run_s": [1.0]}, "", Verdict.RAN, "simulated"),
        (0, {"stage": "loading the context", "failed": "no such graph"}, "", Verdict.FAILED, "context: no such graph"),
        (-11, {"stage": "running input 1 of 2"}, "", Verdict.CRASHED, "SIGSEGV while simulating, running input 1 of 2"),
        (None, {"stage": "running input 1 of 2"}, "", Verdict.TIMED_OUT, "stopped after 5 s while running input 1"),
        (1, {"stage": "loading the context"}, "std::bad_alloc", Verdict.OUT_OF_MEMORY, "needs more memory"),
    ],
)
def test_run_verdicts(returncode, result, log, verdict, detail):
    run = classify_npu_run(returncode, result, log, 5)
    assert run.verdict is verdict
    assert detail in run.detail


COMPILED = NpuBuild(Verdict.COMPILED, "494 of 494 ops on SM8850", "SM8850", "2.51.0", 494, 494, 1, context_bytes=9)


@pytest.mark.parametrize(
    ("verdict", "required", "outcome"),
    [
        (Verdict.COMPILED, False, "passed"),
        (Verdict.REFUSED, False, "failed"),
        (Verdict.FAILED, False, "failed"),
        (Verdict.CRASHED, False, "failed"),
        (Verdict.TIMED_OUT, False, "skipped"),
        (Verdict.TIMED_OUT, True, "failed"),
        (Verdict.OUT_OF_MEMORY, False, "skipped"),
        (Verdict.OUT_OF_MEMORY, True, "failed"),
    ],
)
def test_the_gates_outcome_follows_from_the_verdict(verdict, required, outcome, tmp_path):
    check, found = compile_check(tmp_path / "a.tflite", replace(COMPILED, verdict=verdict), required)
    assert (check.outcome, found) == (outcome, verdict)
    assert check.backend == "QNN 2.51.0 for SM8850"
    assert check.figures["ops"] == 494


@pytest.fixture
def one_op(tmp_path):
    path = tmp_path / "one_op.tflite"
    path.write_bytes(one_op_model())
    return path


RAN = NpuRun(Verdict.RAN, "simulated", run_s=(1.0,))


def test_a_simulation_is_held_against_the_reference(one_op):
    check, _ = compile_check(one_op, COMPILED, False)
    reference = [{"y": np.float32([[0.6, 0.8, 0.0, 0.0]])}]
    inputs = [{"x": np.zeros((1, 4), np.float32)}]
    right = replace(RAN, outputs=tuple(reference))
    passed = run_check(one_op, check, right, "fp16", inputs, reference, False)
    assert passed.outcome == "passed"
    assert passed.detail.startswith("494 of 494 ops on SM8850 (compiler), cosine 1.0000000, |norm - 1| 0e+00")
    assert passed.detail.endswith("(simulated)")
    wrong = replace(RAN, outputs=({"y": np.float32([[0.0, 0.8, 0.6, 0.0]])},))
    failed = run_check(one_op, check, wrong, "fp16", inputs, reference, False)
    assert failed.outcome == "failed"
    assert "cosine 0.64 (must be >= 0.9999)" in failed.detail
    long = replace(RAN, outputs=({"y": np.float32([[0.63, 0.84, 0.0, 0.0]])},))
    failed = run_check(one_op, check, long, "fp16", inputs, reference, False)
    assert "norm_error" in failed.detail


@pytest.mark.parametrize(
    ("verdict", "required", "outcome"),
    [
        (Verdict.CRASHED, False, "failed"),
        (Verdict.FAILED, False, "failed"),
        (Verdict.TIMED_OUT, False, "passed"),
        (Verdict.TIMED_OUT, True, "failed"),
    ],
)
def test_a_simulation_that_did_not_end_leaves_the_compilers_verdict(one_op, verdict, required, outcome):
    check, _ = compile_check(one_op, COMPILED, required)
    check = run_check(one_op, check, NpuRun(verdict, "it ended badly"), "fp16", [], [], required)
    assert (check.outcome, check.detail) == (outcome, "494 of 494 ops on SM8850 (compiler); it ended badly")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A machine that has everything, as far as looking can tell."""
    tool = tmp_path / "apply_plugin_main"
    tool.touch()
    monkeypatch.setattr(npu.platform, "system", lambda: "Linux")
    monkeypatch.setattr(npu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(npu.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(npu, "qnn_folder", lambda: tmp_path)
    monkeypatch.setattr(npu, "_tool", lambda: tool)
    monkeypatch.delenv(LICENCE_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("owner", "name", "value", "words"),
    [
        (npu.platform, "machine", "aarch64", "this is aarch64 Linux: run it on such a machine"),
        (npu.platform, "system", "Darwin", "this is x86_64 Darwin"),
        (npu.platform, "libc_ver", ("glibc", "2.31"), "need glibc 2.35, and this is glibc 2.31"),
        (npu.platform, "libc_ver", ("", ""), "and this is no glibc"),
        (npu, "qnn_folder", None, "run `pip install 'pecore-litert[npu]'`"),
    ],
)
def test_what_is_missing_skips_the_gate_with_the_remedy(installed, monkeypatch, one_op, owner, name, value, words):
    assert unavailable() is None
    monkeypatch.setattr(owner, name, lambda: value)
    assert words in prepare(NpuOptions(("SM8850",)))
    for required, outcome in ((False, "skipped"), (True, "failed")):
        (check,) = npu_gates(one_op, "fp16", [], [], NpuOptions(("SM8850",), required=required), print)
        assert (check.gate, check.outcome) == ("npu", outcome)
        assert words in check.detail
    assert compile_for_npu(one_op, "SM8850", one_op.with_name("x")).verdict is Verdict.UNAVAILABLE


def test_a_litert_without_the_tool(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(npu, "_tool", lambda: tmp_path / "nowhere")
    assert "no apply_plugin_main" in unavailable()


def test_the_licence_is_asked_for_and_can_be_accepted_in_two_ways(installed, monkeypatch):
    asked = []

    def build(model, chip, target):
        asked.append(chip)
        return replace(COMPILED, chip=chip)

    monkeypatch.setattr(npu, "compile_for_npu", build)
    with pytest.raises(InputError, match=r"Qualcomm_LICENSE\.pdf, then add --accept-qualcomm-licence, or set PECORE_"):
        prepare(NpuOptions(("SM8850",)))
    assert not asked
    assert prepare(NpuOptions(("SM8850", "SM8650"), accepted=True)) is None
    monkeypatch.setenv(LICENCE_VARIABLE, "1")
    assert prepare(NpuOptions(("SM8850",))) is None
    assert asked == ["SM8850", "SM8650", "SM8850"]


def test_an_unknown_chip_is_the_callers_error_before_any_work(installed, monkeypatch):
    unknown = classify_build(1, "", UNKNOWN, "SM9999", None, 5)
    monkeypatch.setattr(npu, "compile_for_npu", lambda *_: unknown)
    with pytest.raises(InputError, match="SM9999: no chip that Qualcomm's compiler knows"):
        prepare(NpuOptions(("SM9999",), accepted=True))
    monkeypatch.setattr(npu, "compile_for_npu", lambda *_: classify_build(6, "", NOT_LOADED, "SM8850", None, 5))
    assert "could not load" in prepare(NpuOptions(("SM8850",), accepted=True))


@pytest.mark.parametrize("chips", [("sm8850",), ("SM8850", "Snapdragon 8"), ("",), ()])
def test_names_that_are_no_chips(chips):
    with pytest.raises(InputError, match="no name of a Qualcomm chip; give some like SM8850"):
        NpuOptions(chips)


def test_only_the_first_chip_that_is_whole_is_run(installed, monkeypatch, one_op):
    """The simulation models no chip, and takes minutes."""
    builds = {"SM8350": replace(COMPILED, verdict=Verdict.FAILED), "SM8850": COMPILED, "SM8650": COMPILED}
    ran, crashed = [], NpuRun(Verdict.CRASHED, "")
    monkeypatch.setattr(npu_gate, "compile_for_npu", lambda path, chip, target: builds[chip])
    monkeypatch.setattr(npu_gate, "run_on_npu", lambda path, inputs: ran.append(path.stem) or crashed)
    options, samples = NpuOptions(tuple(builds), run=True, accepted=True), [{"x": np.zeros((1, 4), np.float32)}]
    checks = npu_gates(one_op, "fp16", samples, samples, options, lambda line: None)
    assert ran == ["SM8850"]
    assert [c.outcome for c in checks] == ["failed", "failed", "passed"]
    assert npu_gates(one_op, "fp16", [], [], None, print) == []


def test_a_required_compiler_ends_a_conversion_before_it_starts(installed, monkeypatch):
    from pecore.convert.pipeline import GateOptions, _require_accelerators

    monkeypatch.setattr(npu.platform, "machine", lambda: "aarch64")
    _require_accelerators(GateOptions(npu=NpuOptions(("SM8850",))))
    with pytest.raises(GateError, match="--require-npu, but Qualcomm's compiler needs x86-64 Linux"):
        _require_accelerators(GateOptions(npu=NpuOptions(("SM8850",), required=True)))


Logs = namedtuple("Logs", "out err")


@pytest.mark.parametrize(
    ("code", "memory", "returncode", "words"),
    [
        ("print('done')", 2**34, 0, "done"),
        ("import numpy; numpy.ones(2**31)", 2**32, 1, "MemoryError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 2**34, -11, ""),
        ("import time; time.sleep(60)", 2**34, None, ""),
    ],
)
def test_a_child_is_bounded_in_time_and_memory(tmp_path, code, memory, returncode, words):
    logs = Logs(tmp_path / "out", tmp_path / "err")
    timeout = 1 if returncode is None else 60
    assert run_child([sys.executable, "-c", code], logs, timeout, {"OMP_NUM_THREADS": "1"}, memory) == returncode
    assert words in "".join(log.read_text() for log in logs)
