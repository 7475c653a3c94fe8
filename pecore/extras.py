"""What is installed for what: the optional dependencies of pyproject.toml, and the sentence for one that is missing."""

from collections.abc import Mapping

EXTRAS: Mapping[str, frozenset[str]] = {
    "convert": frozenset(
        {
            *("torch", "timm", "litert_torch", "litert_converter", "ai_edge_quantizer", "open_clip"),
            *("huggingface_hub", "safetensors", "matplotlib", "skimage"),
        }
    ),
    "search": frozenset({"lance", "pyarrow", "sklearn"}),
    "ray": frozenset({"ray", "fsspec", "s3fs"}),
    "serve": frozenset({"starlette", "uvicorn", "prometheus_client"}),
    "bench": frozenset({"onnx", "onnxscript", "onnxruntime", "openvino"}),
    "npu": frozenset({"onnxruntime_qnn"}),
    "tensorflow": frozenset({"tensorflow"}),
}
"""Name of an extra -> the top-level modules that it brings."""


def missing_extra(error: ImportError) -> str | None:
    """The sentence for an import that failed because an extra is not installed; None where it failed otherwise."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    return f"this needs {module}, which is not installed: run `pip install 'pecore-litert[{extra}]'`"
