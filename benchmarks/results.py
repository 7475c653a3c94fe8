"""What was measured, as JSON with the machine it was measured on.

benchmarks/results/TOPIC.json             does not depend on the CPU: counts, accuracy
benchmarks/results/xeon-amx/TOPIC.json    one folder for each kind of CPU
benchmarks/results/nvidia-h200/gpu.json   one folder for each GPU
"""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pecore.files import write_json
from pecore.validate.report import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS_VARIABLE = "PECORE_BENCH_RESULTS"
"""Environment variable: another folder for results than the one that is committed."""
RESULTS = Path(os.environ.get(RESULTS_VARIABLE, ROOT / "benchmarks" / "results"))
FAMILY = ROOT / "pecore" / "family.json"
"""Results of `benchmarks.family`, which `pecore list` shows."""

ANYWHERE = ("graphs", "kernels", "accuracy", "drawings")
PER_CPU = ("latency", "conversion", "browser")
PER_ADAPTER = ("gpu",)

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
EXTENSIONS = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "amx_int8": "AMX",
    "asimddp": "dot product",
    "i8mm": "i8mm",
}
"""Linux's flag -> what the instructions are called; of those that matrix kernels are chosen by."""

FAMILIES = ("xeon", "epyc", "ryzen", "neoverse", "apple", "intel", "amd")

Contents = Mapping[str, Any]
"""Topic -> its content; a topic of `PER_CPU` or `PER_ADAPTER` -> folder -> its content. `family` has that of
`FAMILY`."""


def environment() -> dict[str, Any]:
    """CPU, cores, memory, Python and the versions of the libraries that are compared (those installed)."""
    name, extensions = cpu()
    return {
        "cpu": f"{name} ({', '.join(extensions)})" if extensions else name,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "versions": versions(VERSIONS_OF),
    }


def cpu(file: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The CPU's name as Linux gives it, and those of `EXTENSIONS` that it has."""
    try:
        text = file.read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return name[1].strip() if name else platform.machine(), [v for k, v in EXTENSIONS.items() if k in known]


def kind_of_cpu(name: str, extensions: Sequence[str]) -> str:
    """The name of a kind's folder: family, and the widest instructions. `xeon-amx`, `epyc-avx512-vnni`, `epyc-avx2`."""
    family = next((f for f in FAMILIES if f in name.lower()), platform.machine())
    widest = [e for e in extensions if e in ("AVX-512", "VNNI")] if "AVX-512" in extensions else extensions
    widest = ["AMX"] if "AMX" in extensions else widest
    return "-".join([family, *(re.sub(r"[- ]", "", e.lower()) for e in widest)])


def write(topic: str, content: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Write `folder`/`topic`.json, for a topic of `PER_CPU` in the folder of this kind of CPU; whole or not at all."""
    folder = folder / kind_of_cpu(*cpu()) if topic in PER_CPU else folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{topic}.json", {"environment": environment(), **content})


def read(folder: Path = RESULTS) -> Contents:
    """Every topic that was run."""
    found: dict[str, Any] = {t: _load(folder / f"{t}.json") for t in ANYWHERE if (folder / f"{t}.json").exists()}
    for topic in (*PER_CPU, *PER_ADAPTER):
        if paths := sorted(folder.glob(f"*/{topic}.json")):
            found[topic] = {path.parent.name: _load(path) for path in paths}
    return found | {"family": _load(FAMILY)}


def _load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
