"""Read label embeddings: what `pecore labels` wrote, checked before anything is classified with it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from convert import fingerprint
from convert.bundle import EMBEDDINGS_FILE, LABELS_FILE, MANIFEST
from pecore.errors import InputError

HEADER_BYTES = 8  # n and dim, little-endian int32
NORM_ERROR = 1e-4  # float32 rows are within 1e-6 of norm 1; what is further off was not normalised


@dataclass(frozen=True)
class LabelSet:
    """The labels of a bundle and their embeddings.

    labels: n of them, in the order of the rows. embeddings: `[n, dim]` float32, rows L2-normalised, read-only.
    logit_scale: the checkpoint's, exp'd: probabilities are softmax(logit_scale * cosines). about: the manifest's
    `labels` entry. size: the variant's, `B16`.
    """

    labels: tuple[str, ...]
    embeddings: np.ndarray
    logit_scale: float
    about: Mapping[str, Any]
    size: str

    def check_partner(self, vision_manifest: Mapping[str, Any], where: str) -> None:
        """Refuse a vision tower of another variant or checkpoint than the labels were made with.

        Args:
            vision_manifest: of the bundle that is to be classified with.
            where: that bundle, for the message.

        Raises:
            InputError: naming both checkpoints, or a bundle without a vision tower.
        """
        check_partner(self.about["weights"], self.size, vision_manifest, where)


def read_labels(folder: str | os.PathLike[str]) -> LabelSet:
    """The labels in a bundle (or in a folder of labels alone), checked against its manifest.

    Raises:
        InputError: no labels there, a file that is missing, damaged or not the one the manifest means, or labels of
            another checkpoint than the vision tower in the same bundle.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    about = manifest.get("labels")
    if not about:
        raise InputError(f"{folder} holds no labels; make some with `pecore labels --labels FILE --out {folder}`")
    try:
        digests = {name: about["files"][name]["sha256"] for name in (EMBEDDINGS_FILE, LABELS_FILE)}
        shape, scale, size = (about["n"], about["dim"]), float(about["logit_scale"]), manifest["variant"]["size"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / MANIFEST, f"its labels entry is not ours ({error!r})") from error
    data = {name: _checked(folder / name, digest) for name, digest in digests.items()}
    labels = tuple(data[LABELS_FILE].decode("utf-8").removesuffix("\n").split("\n"))
    embeddings = _parse(folder / EMBEDDINGS_FILE, data[EMBEDDINGS_FILE])
    if embeddings.shape != shape or len(labels) != len(embeddings):
        found = f"{embeddings.shape[0]} rows of {embeddings.shape[1]} and {len(labels)} labels"
        raise _damaged(folder, f"it holds {found}, where the manifest has {shape[0]} rows of {shape[1]}")
    label_set = LabelSet(labels, embeddings, scale, about, size)
    if "weights" in manifest:
        label_set.check_partner(manifest, str(folder))
    return label_set


def check_partner(weights: Mapping[str, Any], size: str, vision_manifest: Mapping[str, Any], where: str) -> None:
    """Refuse to join text of `weights` (a manifest's entry) and variant `size` with another checkpoint's vision tower.

    Raises:
        InputError: naming both, or a bundle without a vision tower.
    """
    if "weights" not in vision_manifest:
        raise InputError(f"{where} holds no vision tower; make one with `pecore convert --size {size}`")
    vision_size = vision_manifest["variant"]["size"]
    fingerprint.check_partner(weights, size, vision_manifest["weights"], vision_size, where)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} is no bundle, {MANIFEST} can't be read ({error.strerror}): pass a folder that "
            "`pecore convert` or `pecore labels` wrote"
        ) from error
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "it is not a manifest of ours")
    return manifest


def _checked(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it can't be read ({error.strerror})") from error
    if sha256(data).hexdigest() != digest:
        raise _damaged(path, "it is not the file the manifest means (sha256 differs)")
    return data


def _parse(path: Path, data: bytes) -> np.ndarray:
    n, dim = np.frombuffer(data[:HEADER_BYTES], "<i4") if len(data) >= HEADER_BYTES else (0, 0)
    expected = HEADER_BYTES + 4 * int(n) * int(dim)
    if n < 1 or dim < 1 or len(data) != expected:
        raise _damaged(path, f"it has {len(data)} bytes and says {n} rows of {dim}")
    rows = np.frombuffer(data, "<f4", offset=HEADER_BYTES).reshape(n, dim).astype(np.float32, copy=False)
    if not np.isfinite(rows).all():
        raise _damaged(path, "it has NaN or infinity")
    if np.abs(np.linalg.norm(rows, axis=1) - 1).max() > NORM_ERROR:
        raise _damaged(path, "its rows are not L2-normalised")
    rows.flags.writeable = False
    return rows


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} can't be used, {why}: make the labels again with `pecore labels`")
