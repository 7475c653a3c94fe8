"""The stack: arrows point down, and only down (CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, REWRITES, VALIDATE, CONVERT, CLI, SERVER = "core", "rewrites", "validate", "convert", "cli", "server"

ALLOWED = {
    # room: the rooms that it may import
    CORE: {CORE},
    REWRITES: {REWRITES},
    VALIDATE: {VALIDATE, CORE, REWRITES},
    CONVERT: {CONVERT, VALIDATE, CORE, REWRITES},
    SERVER: {SERVER, CORE},
    CLI: {CLI, SERVER, CONVERT, VALIDATE, CORE, REWRITES},
}
HEAVY = frozenset(
    {
        *("torch", "timm", "open_clip", "litert_torch", "litert_converter", "ai_edge_quantizer", "safetensors"),
        *("huggingface_hub", "matplotlib", "skimage", "sklearn", "tensorflow", "onnx", "onnxruntime", "openvino"),
        "onnxruntime_qnn",
        *("lance", "pyarrow", "ray", "fsspec", "s3fs"),
    }
)
DRAWS = {"pecore.figures", "pecore.confusion_figure"}
"""Modules of the core that are Matplotlib's, imported only where something is drawn."""

LAZY = {
    # module of the core -> the rooms or extras that it imports inside a function, and why
    "pecore": "`pecore.rewrite`, when it is asked for",
    "pecore.cluster": "scikit-learn, of an extra",
    "pecore.embed": "fsspec, of an extra",
    "pecore.embed_ray": "Ray, of an extra",
    "pecore.index": "Lance, of an extra",
    "pecore.index_formats": "pyarrow, of an extra",
    "pecore.index_writer": "Lance, of an extra",
    "pecore.runtime": "TensorFlow, of an extra",
}


def room(module: str) -> str:
    """The room that a module of ours is in."""
    if module == "pecore.__main__":  # `python -m pecore`
        return CLI
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in (REWRITES, VALIDATE, CONVERT, CLI, SERVER) else CORE


def modules() -> Iterator[tuple[str, Path]]:
    for path in _files(ROOT / "pecore"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, path


def _files(folder: Path) -> Iterator[Path]:
    """Python files under a folder, through symbolic links too."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.suffix == ".py":
            yield path


def imports(path: Path, module: str) -> Iterator[tuple[str, bool]]:
    """What a file imports, and whether at its top level; what only type checkers see is left out."""
    tree = ast.parse(path.read_text("utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    pending: list[tuple[ast.AST, bool]] = [(tree, True)]
    while pending:
        node, top = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((f"{base}.{alias.name}", top) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        pending += [(child, top and not inside) for child in ast.iter_child_nodes(node)]


MODULES = dict(modules())


def test_every_room_is_read() -> None:
    """A rename of a folder must not leave this test with nothing to look at."""
    assert {room(name) for name in MODULES} == set(ALLOWED)
    assert len(MODULES) > 80


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module: str) -> None:
    for name, top in imports(MODULES[module], module):
        if name.split(".")[0] != "pecore":
            continue
        if not top and module in LAZY:
            continue
        assert room(name) in ALLOWED[room(module)], f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in (CORE, SERVER)])
def test_the_core_imports_no_extra(module: str) -> None:
    """At the top level; inside functions only where `LAZY` says so."""
    for name, top in imports(MODULES[module], module):
        if name.split(".")[0] in HEAVY:
            drawn = module in DRAWS and name.startswith("matplotlib")
            assert drawn or (not top and module in LAZY), f"{module} imports {name}"
        if top and name.startswith(tuple(DRAWS)):
            assert module in DRAWS, f"{module} imports {name} at its top level"


def test_rewrites_are_pure_torch() -> None:
    known = {"torch", "collections", "dataclasses", "math", "types", "typing"}
    for module in (name for name in MODULES if room(name) == REWRITES):
        others = {name.split(".")[0] for name, _ in imports(MODULES[module], module)} - known - {"pecore"}
        assert not others, f"{module} imports {others}"


def test_an_arrow_upwards_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text("def f():\n    from pecore.convert import pipeline\n\nfrom .. import cli\n")
    found = dict(imports(file, "pecore.validate.low"))
    assert found == {"pecore.convert.pipeline": False, "pecore.cli": True}
    assert all(room(name) not in ALLOWED[VALIDATE] for name in found)
