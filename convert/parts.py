"""What comes to a bundle after its vision tower, or begins one: a section of the manifest, and files beside it."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert import bundle
from convert.fingerprint import check_partner, mismatch
from convert.variants import Variant
from pecore.errors import InputError


def open_manifest(folder: Path, variant: Variant, section: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest in `folder`, or the beginning of one where the folder is empty or not there yet.

    Args:
        section: about to be written, so that what it holds already does not matter.
        weights: of its text tower, as `TextWeights.about` gives them.

    Raises:
        InputError: the folder is not a bundle's, or is one of another variant or another checkpoint.
    """
    bundle.check_target(folder)
    path = folder / bundle.MANIFEST
    if not path.is_file():
        return {"format": 1, "name": variant.artefact, "variant": asdict(variant)}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        size = manifest["variant"]["size"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a manifest of ours ({error!r}): give --out another folder") from error
    others = [manifest, *(manifest[name] for name in ("labels", "text") if name != section and name in manifest)]
    for other in others:
        if "weights" in other or size != variant.size:
            check_partner(weights, variant.size, other.get("weights"), size, str(folder))
    return manifest


def add(staged: bundle.Staging, manifest: Mapping[str, Any]) -> Path:
    """Move the staged files into the bundle and, last, put its new manifest in place; the folder.

    Where the process is killed between two of the moves, the files no longer match the manifest's sha256, and readers
    say so.
    """
    written = staged.folder / bundle.MANIFEST
    bundle.write_json(written, manifest)
    if not staged.target.exists():
        return staged.keep()
    for file in staged.folder.iterdir():
        file.chmod(0o644)
        if file != written:
            os.replace(file, staged.target / file.name)
    os.replace(written, staged.target / bundle.MANIFEST)
    return staged.target


def file_entry(path: Path, **more: Any) -> dict[str, Any]:
    """What a manifest keeps of a file."""
    return {**more, "bytes": path.stat().st_size, "sha256": bundle.sha256(path)}


FILES_BESIDE = {"labels": (), "text": (bundle.TEXT_REPORT, bundle.TEXT_REFERENCE)}
"""Section of the manifest -> files that belong to it and that it does not list."""

KEYS_OF_TEXT = ("logit_scale", "prompt_templates")
"""What a text tower knows and a vision tower does not."""


def carry_over(old: Path, manifest: dict[str, Any], folder: Path) -> list[str]:
    """Take labels and text tower from the bundle in `old`, which is about to be replaced, into the new one.

    Args:
        manifest: of the new bundle; gets the sections.
        folder: of the new bundle; gets the files.

    Returns:
        The sections that were left behind, because they belong to other weights or their files are not whole.
    """
    try:
        before = json.loads((old / bundle.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    left = []
    for section in FILES_BESIDE:
        about = before.get(section)
        if about is None:
            continue
        same_size = before["variant"]["size"] == manifest["variant"]["size"]
        others = not same_size or mismatch(about["weights"], manifest["weights"])
        if others or bundle.damaged(old, about["files"]):
            left.append(section)
            continue
        for name in (*about["files"], *FILES_BESIDE[section]):
            shutil.copy2(old / name, folder / name)
        manifest |= {section: about} | {key: before[key] for key in KEYS_OF_TEXT if before.get(key)}
    return left
