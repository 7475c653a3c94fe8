"""The graphs that are compared, each made when it is first asked for: timm's tower as it is, the published structure,
and ours in three precisions, all from the same synthetic weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.published import PublishedTower
from benchmarks.results import ROOT
from pecore.convert.baselines import export_onnx, quantize_onnx
from pecore.convert.checkpoint import load
from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tflite_files import write_fp16
from pecore.convert.towers import build_tower
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate.ablation_variants import ROWS, AblationRow, TimmTower, ablated
from pecore.validate.headroom import fit_scales
from pecore.validate.photographs import photographs
from pecore.variants import Variant

FOLDER = ROOT / "build" / "bench"
"""Where everything large goes; `make bench` empties it first."""

GRAPHS = {
    "timm": "timm's tower as it is",
    "published": "published structure",
    "published-fp16": "published structure, fp16",
    "ours-fp32": "ours, fp32",
    "ours-fp16": "ours, fp16",
    "ours-int8": "ours, int8",
}
"""Name -> what tables call it."""


@dataclass(frozen=True)
class Workspace:
    """One variant's weights and graphs. Files are kept in `folder` and not made twice."""

    variant: Variant
    folder: Path = FOLDER
    amplitude: float = 400.0

    @cached_property
    def model(self) -> Any:
        """timm's tower, with synthetic weights, or with its own where they come with this package."""
        if self.variant.packaged:
            return build_tower(self.variant, load(self.variant).state_dict)
        return build_tower(self.variant, synthetic_state_dict(self.variant, amplitude=self.amplitude))

    @cached_property
    def reference(self) -> nn.Module:
        """timm's tower with the L2 normalisation that all graphs have."""
        return TimmTower(self.model, torch.float32).eval()

    @cached_property
    def images(self) -> Sequence[np.ndarray]:
        """The photographs as inputs `[1, 3, s, s]`."""
        return [preprocess(image, self.variant.image_size) for _, image in photographs()]

    @cached_property
    def scales(self) -> Scales:
        return fit_scales(self.model, [torch.from_numpy(image) for image in self.images])[0]

    def file(self, name: str) -> Path:
        """The `.tflite` of one of `GRAPHS`, or `onnx`, `onnx-int8`: timm's tower as ONNX."""
        suffix = "onnx" if name.startswith("onnx") else "tflite"
        return self._kept(f"{name}.{suffix}", lambda path: self._make(name, path))

    def without(self, name: str) -> Path:
        """The `.tflite` of ours in fp16 with one rewrite taken out: the ablation's row of this name."""
        row = next(row for row in ROWS if row.name == name)
        return self._kept(f"without_{name}.tflite", lambda path: self.write_without(row, path))

    def write_without(self, row: AblationRow, path: Path) -> None:
        """The same, written to `path` whether it is there or not."""
        write_fp16(ablated(row, self.model, self.scales), torch.from_numpy(self.images[0]), path)

    def _kept(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / f"{self.variant.artefact}_{name}"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            made = path.with_name(f"making_{path.name}")
            make(made)
            made.rename(path)
        return path

    def _make(self, name: str, path: Path) -> None:
        from_other: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
            "published-fp16": ("published", lambda a, b: quantize(a, b, "fp16")),
            "ours-fp16": ("ours-fp32", lambda a, b: quantize(a, b, "fp16")),
            "ours-int8": ("kept", lambda a, b: quantize(a, b, "int8")),
            "onnx-int8": ("onnx", quantize_onnx),
        }
        if name in from_other:
            source, how = from_other[name]
            how(self.file(source), path)
            return
        image = torch.from_numpy(self.images[0])
        if name == "onnx":
            export_onnx(self.reference, image, path)
            return
        towers: dict[str, Callable[[], nn.Module]] = {
            "timm": lambda: self.reference,
            "published": lambda: PublishedTower(self.model),
            "ours-fp32": lambda: rewrite(self.model, self.scales),
            "kept": lambda: rewrite(self.model, self.scales, keep_norm_weights=True),  # what int8 is made from
        }
        export_tflite(towers[name](), {"image": image}, path)
