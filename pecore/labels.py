"""Read label embeddings: what `pecore labels` wrote, checked before anything is classified with it."""

import os
import unicodedata
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from pecore.bundle import EMBEDDINGS_FILE, LABELS_FILE, MANIFEST, LabelsSection, read_manifest, require_same_checkpoint
from pecore.errors import InputError

HEADER_BYTES = 8  # n and dim, little-endian int32
NORM_ERROR = 1e-4  # float32 rows are within 1e-6 of norm 1; what is further off was not normalised


@dataclass(frozen=True)
class LabelSet:
    """The labels of a bundle and their embeddings.

    labels: n of them, in the order of the rows. embeddings: `[n, dim]` float32, rows L2-normalised, read-only.
    logit_scale: the checkpoint's, exp'd: probabilities are softmax(logit_scale * cosines). about: the manifest's
    `labels` section. size: the variant's, `B16`.
    """

    labels: tuple[str, ...]
    embeddings: np.ndarray
    logit_scale: float
    about: LabelsSection
    size: str


def plain_name(name: str) -> str:
    """A name as it is compared with others: whatever its case, `_` for a space, and the form of Unicode it is in (file
    systems differ in theirs)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.replace("_", " ").split())


def load_label_set(folder: str | os.PathLike[str]) -> LabelSet:
    """The labels in a bundle (or in a folder of labels alone), checked against its manifest.

    Raises:
        InputError: no labels there, a file that is missing, damaged or not the one the manifest means, or labels of
            another checkpoint than the vision tower in the same bundle.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    about = manifest.labels
    if about is None:
        raise InputError(f"{folder} holds no labels; make some with `pecore labels --labels FILE --out {folder}`")
    if not {EMBEDDINGS_FILE, LABELS_FILE} <= about.files.keys():
        raise _damaged(folder / MANIFEST, "its labels entry lists no embeddings or no labels")
    data = {name: _checked(folder / name, entry.sha256) for name, entry in about.files.items()}
    labels = tuple(data[LABELS_FILE].decode("utf-8").removesuffix("\n").split("\n"))
    embeddings = _parse(folder / EMBEDDINGS_FILE, data[EMBEDDINGS_FILE])
    if embeddings.shape != (about.n, about.dim) or len(labels) != len(embeddings):
        found = f"{embeddings.shape[0]} rows of {embeddings.shape[1]} and {len(labels)} labels"
        raise _damaged(folder, f"it holds {found}, where the manifest has {about.n} rows of {about.dim}")
    size = manifest.variant.size
    if manifest.vision:
        require_same_checkpoint(about.weights, size, manifest.vision.weights, size, str(folder))
    return LabelSet(labels, embeddings, about.logit_scale, about, size)


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
