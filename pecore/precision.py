"""The precisions that a file's weights are stored in. One row holds everything about one: adding one is one row.

Not to be confused with what a GPU *computes* in (`Compute`), which any file leaves open.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from pecore.errors import InputError

Compute = Literal["fp16", "fp32"]
"""What the GPU delegate computes in; fp16 is its default. A CPU computes in the graph's own types."""

COMPUTES: tuple[Compute, ...] = get_args(Compute)

Figures = Mapping[str, float]
"""Name of a figure -> the worst value that passes."""

EXACT_ON_GPU: Figures = {"correlation": 0.9999999, "norm_error": 1e-5}
ROUNDED_ON_GPU: Figures = {"correlation": 0.9999, "norm_error": 2e-3}
ROUNDED_ON_NPU: Figures = {"cosine": 0.9999, "norm_error": 2e-3}
INT8_WEIGHTS: Mapping[str, Figures] = {
    "cpu": {"cosine": 0.999, "norm_error": 1e-5},
    "gpu fp16": {"correlation": 0.999, "norm_error": 2e-3},
    "gpu fp32": {"correlation": 0.999, "norm_error": 1e-5},
    "npu": {"cosine": 0.999, "norm_error": 2e-3},
}


@dataclass(frozen=True)
class Precision:
    """How a file's weights are stored, and what follows from it.

    dtype: of the stored matrices, in the schema's words. bytes_per_weight: in the file. quantization:
    ai-edge-quantizer's algorithm; None for the float32 file itself. keep_norm_weights: as `rewrites.rewrite` takes it.
    unit: kind of run (`cpu`, against PyTorch fp32; `gpu fp16` and `gpu fp32`, against the same file on the CPU, so that
    the weights' rounding is judged once; `npu`, simulated in fp16, against PyTorch again) -> thresholds of an output
    that is L2-normalised. other: in their place for outputs that are not (features, logits): they are as large as the
    residual stream, and their norm is not made 1 at the end but rounded with the weights. integer: activations are
    integers as well, in ranges that pictures showed; for NPUs, because no GPU takes such a file. localize: relative
    error from which `pecore localize` calls a step wrong; sound towers stay under 0.015 with fp16 weights on the
    delegate in fp16, and under 0.03 with int8 weights (docs/numerics.md).
    """

    name: str
    dtype: str
    bytes_per_weight: int
    quantization: Literal["float_casting", "dynamic_range", "static"] | None
    keep_norm_weights: bool
    unit: Mapping[str, Figures]
    other: Mapping[str, Figures] = field(default_factory=dict)
    integer: bool = False
    localize: float = 0.05

    @property
    def tower(self) -> str:
        """What reports call the rewritten tower that such a file is made from."""
        return "tower with norm weights kept" if self.keep_norm_weights else "tower"

    def thresholds(self, kind: str, unit: bool = True) -> Figures:
        """The thresholds of a kind of run for an output that is a unit vector, or is not."""
        return self.unit[kind] if unit else self.other.get(kind, self.unit[kind])


PRECISIONS: Mapping[str, Precision] = {
    row.name: row
    for row in (
        Precision(
            name="fp16",
            dtype="float16",
            bytes_per_weight=2,
            quantization="float_casting",
            keep_norm_weights=False,
            unit={
                "cpu": {"cosine": 0.99999, "norm_error": 1e-5},
                "gpu fp16": ROUNDED_ON_GPU,
                "gpu fp32": EXACT_ON_GPU,
                "npu": ROUNDED_ON_NPU,
            },
            other={"cpu": {"cosine": 0.99999, "norm_error": 1e-3}},
        ),
        Precision(
            name="fp32",
            dtype="float32",
            bytes_per_weight=4,
            quantization=None,
            keep_norm_weights=False,
            unit={
                "cpu": {"cosine": 1 - 1e-9, "norm_error": 1e-5, "max_abs_diff": 2e-6},
                "gpu fp16": ROUNDED_ON_GPU,
                "gpu fp32": EXACT_ON_GPU,
                "npu": ROUNDED_ON_NPU,
            },
            other={"cpu": {"cosine": 1 - 1e-9, "norm_error": 1e-5, "relative_diff": 5e-5}},
        ),
        Precision(
            name="int8",
            dtype="int8",
            bytes_per_weight=1,
            quantization="dynamic_range",
            keep_norm_weights=True,
            unit=INT8_WEIGHTS,
            other={"cpu": {"cosine": 0.999, "norm_error": 5e-3}},
            localize=0.1,
        ),
        Precision(
            name="a16w8",
            dtype="int8",
            bytes_per_weight=1,
            quantization="static",
            keep_norm_weights=True,
            unit={**INT8_WEIGHTS, "cpu": {"cosine": 0.999, "norm_error": 2e-3}},
            other={"cpu": {"cosine": 0.999, "norm_error": 5e-3}},
            integer=True,
            localize=0.1,
        ),
    )
}
"""In the order in which a bundle's vision files are preferred."""

TEXT_PREFERENCE = ("int8", "fp16", "fp32")
"""The order for text towers, which run on the CPU and are large."""


def find_precisions(names: Iterable[str]) -> tuple[Precision, ...]:
    """The rows called `names`, each once.

    Raises:
        InputError: an unknown name, or none at all.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown or not names:
        wrong = ", ".join(unknown) or "list: it is empty"
        raise InputError(f"unknown precision {wrong}; choose from {', '.join(PRECISIONS)}")
    return tuple(PRECISIONS[name] for name in names)


def by_tower(names: Iterable[str]) -> list[tuple[Precision, list[str]]]:
    """`names` apart by the rewritten tower that such files are made from: a row that stands for it, and its names."""
    towers: dict[bool, list[str]] = {}
    for name in sorted(names, key=lambda name: PRECISIONS[name].keep_norm_weights):
        towers.setdefault(PRECISIONS[name].keep_norm_weights, []).append(name)
    return [(PRECISIONS[names[0]], names) for names in towers.values()]
