"""Every test here runs on the real delegate: skipped without an adapter, failed if PECORE_REQUIRE_GPU=1 (as in CI)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pecore.convert.export import export_tflite
from pecore.validate.gpu import NO_ADAPTER_REMEDY, Adapter, probe

Convert = Callable[[str, torch.nn.Module, torch.Tensor], Path]


@pytest.fixture(scope="session")
def probed() -> Adapter | None:
    return probe()


@pytest.fixture(autouse=True)
def adapter(probed: Adapter | None) -> Adapter:
    if probed is None:
        reason = f"no Vulkan adapter that ML Drift accepts: {NO_ADAPTER_REMEDY}"
        if os.environ.get("PECORE_REQUIRE_GPU") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return probed


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """convert(name, module, example image) -> path of a `.tflite` with the signature `image` -> `embedding`."""
    folder = tmp_path_factory.mktemp("graphs")

    def convert(name: str, module: torch.nn.Module, image: torch.Tensor) -> Path:
        path = folder / f"{name}.tflite"
        if not path.exists():
            export_tflite(module, {"image": image}, path)
        return path

    return convert
