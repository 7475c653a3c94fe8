"""A torch module -> a float32 `.tflite` with a named signature, through litert-torch."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pecore.convert.lowering import register_lowering
from pecore.convert.memory import move_to_file, return_freed


class _Named(nn.Module):
    """Gives a module's outputs the names that the signature is to have."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]):
        super().__init__()
        self.module, self.outputs = module, outputs

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        out = self.module(**inputs)
        return dict(zip(self.outputs, (out,) if isinstance(out, Tensor) else out, strict=True))


def export_tflite(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    path: Path,
    outputs: tuple[str, ...] = ("embedding",),
    *,
    lightweight: bool = True,
) -> None:
    """Write `module` as a float32 `.tflite` whose signature `serving_default` takes `inputs` and gives `outputs`.

    Args:
        module: takes the inputs by name and returns a tensor, or a tuple with one for each name in `outputs`. Large
            weights are moved to a file without a name beside `path`.
        inputs: name -> example tensor; the shapes become the graph's.
        lightweight: keep constants out of the converter's memory while it works. Half the peak (docs/artefacts.md);
            `False` is the converter's own default path.
    """
    import litert_torch

    register_lowering()
    logging.getLogger("litert_torch").setLevel(logging.ERROR)
    named = _Named(module.eval(), outputs)
    _check_contiguous(named)
    move_to_file(named, path.parent)
    with torch.no_grad(), _short_type_names(named):
        edge = litert_torch.signature("serving_default", named, sample_kwargs=dict(inputs)).convert(
            lightweight_conversion=lightweight
        )
    edge.export(str(path))
    del edge, named
    _forget_graph()


@contextmanager
def _short_type_names(module: nn.Module) -> Iterator[None]:
    """Tensors in the file are named by the types of the modules that make them, `rewrites.tower.Block_3`: without the
    package that they are imported from, so that a file's bytes do not depend on where the rewrites are installed."""
    types = {type(m) for m in module.modules() if type(m).__module__.startswith("pecore.")}
    before = {kind: kind.__module__ for kind in types}
    try:
        for kind, name in before.items():
            kind.__module__ = name.removeprefix("pecore.")
        yield
    finally:
        for kind, name in before.items():
            kind.__module__ = name


def _forget_graph() -> None:
    """Let go of the module's weights: torch.export (2.14) keeps the nodes of its last graph in a global, and the rest
    hangs together in cycles. Of G14 they are 7.5 GB that quantizing needs."""
    from torch.fx.experimental import proxy_tensor

    getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", {}).clear()
    return_freed()


def _check_contiguous(module: nn.Module) -> None:
    """litert-torch 0.10 caches constants by the address of a contiguous copy that it has freed by then, so strided
    ones of the same shape silently replace each other: four came out wrong in 12 of 12 conversions."""
    for name, constant in (*module.named_parameters(), *module.named_buffers()):
        if not constant.is_contiguous():
            raise ValueError(
                f"{name.removeprefix('module.')} is strided, which litert-torch gets wrong: .contiguous() it"
            )
