"""A bundle as its users see it: which files are in it, what they take, and what their embeddings may be compared
with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.bundle import MANIFEST
from pecore.errors import InputError

PREFERRED = {"vision": ("fp16", "fp32", "int8"), "text": ("int8", "fp16", "fp32")}
"""Weights' precisions, the one taken first where there is a choice first."""


@dataclass(frozen=True)
class Bundle:
    """A folder that `pecore convert` wrote, and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    def files(self, tower: str = "vision") -> dict[str, Path]:
        """Precision -> `.tflite` of a tower, `vision` or `text`, the preferred one first."""
        section = self.manifest if tower == "vision" else self.manifest.get("text", {"files": {}})
        made = {entry["precision"]: self.folder / name for name, entry in section["files"].items() if _is_model(name)}
        return {precision: made[precision] for precision in PREFERRED[tower] if precision in made}

    def file(self, precision: str | None = None) -> Path:
        """The vision tower with weights in `precision`; fp16 where there is a choice."""
        files = self.files()
        chosen = precision or next(iter(files), None)
        if chosen not in files:
            have = ", ".join(files) or "no vision tower at all"
            raise InputError(
                f"{self.folder} has no {chosen or 'vision'} .tflite (it has {have}); "
                f"`pecore convert --precision {chosen or 'fp16'}` makes one"
            )
        return files[chosen]

    @property
    def space(self) -> dict[str, Any]:
        """What tells which embeddings those of this bundle may be compared with: the vision weights' fingerprint, and
        the variant and source for people."""
        weights = self.manifest["weights"]
        size = self.manifest["variant"]["size"]
        return {"size": size, "source": weights["source"], "fingerprint": weights.get("fingerprint")}


def open_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's manifest.

    Raises:
        InputError: there is none, or it is not one of ours, or it describes no vision tower.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} is no bundle, its {MANIFEST} can't be read ({error.strerror}); make one with `pecore convert`"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); convert the model again") from error
    missing = [key for key in ("variant", "weights", "files", "input", "tower_output") if key not in manifest]
    if missing:
        raise InputError(
            f"{path} describes no vision tower (it lacks {', '.join(missing)}); make one with `pecore convert`"
        )
    return Bundle(folder, manifest)


def only_bundle(root: Path = Path("out"), option: str = "--bundle ") -> Bundle:
    """The bundle in `root`, where there is exactly one. `option`: what goes before its name on the command line.

    Raises:
        InputError: there is none, or a choice.
    """
    folders = sorted(p.parent for p in root.glob(f"*/{MANIFEST}") if not p.parent.name.startswith("."))
    folders = [folder for folder in folders if not folder.name.endswith(".rejected")]
    if len(folders) != 1:
        found = f"{root} holds {len(folders)} bundles" if folders else f"there is no bundle in {root}"
        example = folders[0] if folders else "out/pe_core_base_224"
        raise InputError(f"{found}; name one, as in {option}{example}")
    return open_bundle(folders[0])


def check_same_space(made_with: Mapping[str, Any], bundle: Bundle, where: str) -> None:
    """Refuse to compare a bundle's embeddings with those that `where` holds, of the `Bundle.space` they were made
    with.

    Raises:
        InputError: naming both checkpoints.
    """
    own = bundle.space
    if own["fingerprint"] is None or own["fingerprint"] != made_with["fingerprint"]:
        raise InputError(
            f"{where} was made with {made_with['size']} from {made_with['source']}, and {bundle.folder} is "
            f"{own['size']} from {own['source']}: these can't be compared; give the bundle it was made with"
        )


def _is_model(name: str) -> bool:
    return name.endswith(".tflite")
