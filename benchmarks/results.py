"""What was measured, as JSON with what it was measured on."""

import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS_VARIABLE = "PECORE_BENCH_RESULTS"
"""Environment variable: another folder for results than the one that is committed."""

RESULTS = Path(os.environ.get(RESULTS_VARIABLE, "benchmarks/results"))

VERSIONS_OF = (
    "torch",
    "timm",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "onnxruntime",
    "openvino",
    "numpy",
)


def environment() -> dict[str, Any]:
    """CPU, cores, memory, Python and the versions of the libraries that are compared (those installed)."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "versions": found,
    }


def cpu_model(file: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as Linux gives it, with what tells one from another of that name."""
    try:
        text = file.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    extensions = [label for flag, label in EXTENSIONS.items() if flag in known]
    known_by = name[1] if name else platform.machine()
    return f"{known_by} ({', '.join(extensions)})" if extensions else known_by


EXTENSIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "amx_int8": "AMX"}


def write(topic: str, content: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write `folder`/`topic`.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{topic}.json"
    half = path.with_suffix(".json.part")
    half.write_text(json.dumps({"environment": environment(), **content}, indent=1, allow_nan=False) + "\n")
    half.replace(path)


def read(topic: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What `write` wrote; FileNotFoundError where the topic was not run."""
    return json.loads((folder / f"{topic}.json").read_text())
