"""What Qualcomm's compiler, and the simulation of what it made, came to: read off the remains of a child process."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pecore.runtime import Arrays
from pecore.validate.child import how_it_ended, shorten, signal_name
from pecore.validate.gpu import RefusedOp


class Verdict(StrEnum):
    """What came of compiling for a chip, or of running the context."""

    COMPILED = "compiled"  # every op, one partition a graph, and a context is there
    RAN = "ran"  # ... and here are its outputs
    REFUSED = "refused"  # the compiler left ops, or all of them, to the CPU
    FAILED = "failed"  # it took ops and ended with an error, or without a context
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    UNKNOWN_CHIP = "unknown_chip"
    UNAVAILABLE = "unavailable"  # no compiler here


NOT_JUDGED = frozenset({Verdict.TIMED_OUT, Verdict.OUT_OF_MEMORY, Verdict.UNAVAILABLE})
"""Verdicts that say nothing about the model."""


@dataclass(frozen=True)
class Context:
    """What a compiled `.tflite` consists of. graphs: those with a piece for the NPU, one for each signature.
    partitions: pieces for the NPU. ops_left: ops for the CPU. bytes: of all contexts together."""

    graphs: int
    partitions: int
    ops_left: int
    bytes: int


@dataclass(frozen=True)
class NpuBuild:
    """What compiling for a chip gave; fields that it didn't reach are None or empty."""

    verdict: Verdict
    detail: str  # one sentence
    chip: str
    qnn_version: str | None = None  # "2.51.0", the library's own word
    ops: int | None = None  # in the graph
    ops_on_npu: int | None = None
    partitions: int | None = None
    refused: tuple[RefusedOp, ...] = ()
    context_bytes: int | None = None
    compile_s: float | None = None
    signal: str | None = None
    log: str = ""  # shortened in the middle


@dataclass(frozen=True)
class NpuRun:
    """What running a context gave; seconds by the wall clock, one for each input."""

    verdict: Verdict
    detail: str
    outputs: tuple[Arrays, ...] = ()
    run_s: tuple[float, ...] = ()
    log: str = ""


def classify_build(
    returncode: int | None, out: str, err: str, chip: str, context: Context | None, timeout_s: float
) -> NpuBuild:
    """Read the verdict off a compiler that is gone: its return code and the context count, not the ops that it says it
    selected, which it may then fail to compile.

    Args:
        returncode: as of `subprocess`, negative for a signal; None for one that had to be stopped.
        out, err: what it wrote to stdout (QNN's own messages) and stderr (LiteRT's).
        context: what the file that it wrote consists of; None where there is none.
    """
    selected = [tuple(map(int, found)) for found in _SELECTED.findall(err)]
    ops = sum(total for _, total in selected) if selected else None
    taken = sum(count for count, _ in selected) if selected else None
    seen = NpuBuild(
        Verdict.CRASHED,
        "",
        chip,
        qnn_version=_first(_VERSION, err),
        ops=ops,
        ops_on_npu=taken,
        refused=parse_refusals(out, err),
        log=shorten(err[err.find("Applying plugin with") :] + "\n" + out),
    )
    if returncode is None:
        return replace(seen, verdict=Verdict.TIMED_OUT, detail=f"stopped after {timeout_s:g} s while compiling")
    if short := _NO_MEMORY.search(out + err):
        detail = f"the compiler needs more memory than this machine gives it ({short[0]}): close other programs"
        return replace(seen, verdict=Verdict.OUT_OF_MEMORY, detail=detail)
    if returncode < 0:
        ending = how_it_ended(returncode, f"compiling for {chip}", err + out)
        return replace(seen, signal=signal_name(returncode), detail=ending)
    if _UNKNOWN_CHIP in err:
        detail = f"{chip}: no chip that Qualcomm's compiler knows; give one like SM8850, SM8750, SM8650 or SM8550"
        return replace(seen, verdict=Verdict.UNKNOWN_CHIP, detail=detail)
    if not_loaded := _first(_NOT_LOADED, err):
        detail = f"LiteRT could not load Qualcomm's compiler ({not_loaded.rstrip('.')}): reinstall pecore-litert[npu]"
        return replace(seen, verdict=Verdict.UNAVAILABLE, detail=detail)
    if taken == 0:
        return replace(seen, verdict=Verdict.REFUSED, detail=f"0 of {ops} ops on {chip}; {_told(seen.refused)}")
    if returncode != 0 or context is None or not context.bytes:
        words = _own_words(out[out.rfind(_REFUSED_NODE) :] if _REFUSED_NODE in out else out)
        why = f"; its own words: {' / '.join(words[:2])}" if words else ""
        ending = f"exit code {returncode}" if returncode else "no context"
        took = f"the compiler took {taken} of {ops} ops for {chip} and ended with" if ops else f"for {chip} it gave"
        return replace(seen, verdict=Verdict.FAILED, detail=f"{took} {ending}{why}")
    on_npu = (ops or 0) - context.ops_left
    seen = replace(seen, ops_on_npu=on_npu, partitions=context.partitions, context_bytes=context.bytes)
    detail = f"{on_npu} of {ops} ops on {chip}"
    if context.ops_left or seen.refused or context.partitions > context.graphs:
        pieces = "1 partition" if context.partitions == 1 else f"{context.partitions} partitions"
        detail = f"{detail}, in {pieces}; {_told(seen.refused)}"
        return replace(seen, verdict=Verdict.REFUSED, detail=detail)
    return replace(seen, verdict=Verdict.COMPILED, detail=detail)


_NO_MEMORY = re.compile("std::bad_alloc|Error creating thread|failed to map segment|MemoryError")
"""QNN goes on without the thread that it can't start, and then refuses every op."""

_SELECTED = re.compile(r"selected (\d+) ops, from a total of (\d+) ops")
_VERSION = re.compile(r"SDK version: v(\d+\.\d+\.\d+)")
_UNKNOWN_CHIP = "Unexpected SoC model"
_NOT_LOADED = re.compile(r"Could not load shared library .*?\.so: (.+)")
_OWN_WORDS = re.compile(r"\[ ERROR \] +(?:<E> |\S+?:\d+::ERROR:)?(.+)")
_REFUSED_NODE = "Failed to validate op "
"""What QNN says last of a node that it refuses, before its name."""

_NO_MATTER = (
    *("unexpected GraphHtpSettings option", "Input ", "Requested I/O", "Supported I/O", "Please refer to"),
    "QnnBackend_validateOpConfig failed",
)
"""Beginnings of lines that QNN calls errors and that tell nothing: the first is printed for every graph."""

_LEFT_OUT = re.compile(
    r"(?:QNN op validation failed: '(?P<node>\w+)' .*\n(?P<tensors>(?:  .*\n)*?)  QNN error=.*\n(?:ERROR: .*\n)?)?"
    r"LiteRT Op #\d+ '(?P<name>\w+)' \(code=(?P<code>\d+)\) is not supported"
)
_TENSOR = re.compile(r"dtype=QNN_DATATYPE_(\w+) dims=(\[[\d,]*\])")
_NO_CUSTOM_OPS = "No custom package registered for custom op"


def parse_refusals(out: str, err: str) -> tuple[RefusedOp, ...]:
    """The ops that the compiler left to the CPU, each pair of op and reason once: QNN's reason for the node with the
    types and shapes it was asked for, or that LiteRT's plugin has no translation for the op."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    found = []
    for match in _LEFT_OUT.finditer(err):
        reason = "LiteRT's plugin has no translation for it"
        if match["node"]:
            asked = ", ".join(" ".join(tensor) for tensor in _TENSOR.findall(match["tensors"]))
            reason = f"{_reason(out, match['node'])} ({asked})"
        found.append(RefusedOp(str(names.get(int(match["code"]), match["name"])), reason))
    if _NO_CUSTOM_OPS in err:
        found.append(RefusedOp("CUSTOM", "no translation of it was given"))
    return tuple(dict.fromkeys(found))


def _reason(out: str, node: str) -> str:
    """The first thing that QNN said of a node that it refused."""
    before, _, _ = out.partition(f"{_REFUSED_NODE}{node} ")
    words = _own_words(before[before.rfind(_REFUSED_NODE) :] if _REFUSED_NODE in before else before)
    return words[0].partition(" in the node ")[0].rstrip(".") if words else "QNN refuses it"


def _own_words(out: str) -> list[str]:
    """What QNN called errors, in its order."""
    return [words for line in _OWN_WORDS.findall(out) if not (words := line.strip()).startswith(_NO_MATTER)]


def _told(refused: Sequence[RefusedOp]) -> str:
    if not refused:
        return "one was asked for, and no op for the CPU"
    names = ", ".join(sorted({refusal.op for refusal in refused}))
    return f"refused: {names} ({refused[0].reason})"


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None


def classify_npu_run(returncode: int | None, result: dict[str, Any], log: str, timeout_s: float) -> NpuRun:
    """Read the verdict off a simulation that is gone; `result` is the `result.json` that it kept: `stage`, `run_s`."""
    stage, kept = result["stage"], shorten(log)
    if stage == "done":
        return NpuRun(Verdict.RAN, "simulated", run_s=tuple(result["run_s"]), log=kept)
    if returncode is None:
        return NpuRun(Verdict.TIMED_OUT, f"the simulation was stopped after {timeout_s:g} s while {stage}", log=kept)
    if short := _NO_MEMORY.search(log):
        detail = f"the simulation needs more memory than this machine gives it ({short[0]}): close other programs"
        return NpuRun(Verdict.OUT_OF_MEMORY, detail, log=kept)
    if "failed" in result:
        return NpuRun(Verdict.FAILED, f"the simulation failed while {stage}: {result['failed']}", log=kept)
    return NpuRun(Verdict.CRASHED, how_it_ended(returncode, f"simulating, {stage}", log), log=kept)
