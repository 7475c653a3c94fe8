"""A bundle: the folder that `pecore convert` writes. Its file names, its manifest, and which bundles belong together.

docs/artefacts.md explains every key of `manifest.json`; here it is a `Manifest`. The keys of the vision tower lie at
the top of the file, those of labels and text tower in sections of their own.
"""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from pecore.errors import InputError
from pecore.files import sha256
from pecore.precision import PRECISIONS, TEXT_PREFERENCE
from pecore.variants import Variant

FORMAT = 1
SIGNATURE = "serving_default"

MANIFEST = "manifest.json"
REPORT = "report.json"
TEXT_REPORT = "report_text.json"
MODEL_CARD = "MODEL_CARD.md"
REFERENCE = "reference.npz"
TEXT_REFERENCE = "reference_text.npz"
HEADROOM_PLOT = "headroom.png"
TOKENIZER_FILE = "tokenizer.json"
EMBEDDINGS_FILE = "text_embeddings.bin"
LABELS_FILE = "labels.txt"

FIXED_NAMES = frozenset(
    {MANIFEST, REPORT, TEXT_REPORT, MODEL_CARD, REFERENCE, TEXT_REFERENCE, HEADROOM_PLOT, TOKENIZER_FILE}
    | {EMBEDDINGS_FILE, LABELS_FILE}
)
"""What conversions write into a bundle, its models apart."""


@dataclass(frozen=True)
class FileEntry:
    """What a manifest keeps of a file; `precision` of its weights and number of `ops` for a `.tflite`."""

    bytes: int
    sha256: str
    precision: str | None = None
    ops: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where weights are from.

    kind: `hub`, `packaged`, `timm`, `open_clip`, `meta` or `synthetic`. source: for people. sha256: of the `file`, a
    bare name. fingerprint: of the vision tower (`pecore.convert.fingerprint`), also for a text tower: that of the
    vision tower in the same file; None for synthetic texts, which the seed tells apart. taken: where in the file they
    were, and whether they are averaged (EMA), for people; empty where it holds nothing else.
    """

    kind: str
    source: str
    synthetic: bool
    sha256: str | None = None
    seed: int | None = None
    amplitude: float | None = None
    file: str | None = None
    fingerprint: str | None = None
    taken: str = ""


@dataclass(frozen=True)
class TensorEntry:
    """An input or output of a graph; `layout` and `range` of an image, `meaning` of an output, for people."""

    name: str
    dtype: str
    shape: Sequence[int]
    layout: str | None = None
    range: str | None = None
    meaning: str | None = None


@dataclass(frozen=True)
class VisionSection:
    """The vision tower's files, by name, and what an app needs to run them.

    tower_output: `kind` and `layer`, as `rewrites.Output` takes them. scales: as `rewrites.Scales`. self_test: the
    reference file, and file -> kind of run -> figure -> worst value that passes.
    """

    weights: Origin
    files: Mapping[str, FileEntry]
    input: TensorEntry
    outputs: Sequence[TensorEntry]
    tower_output: Mapping[str, Any]
    scales: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    self_test: Mapping[str, Any]
    signature: str = SIGNATURE
    versions: Mapping[str, str] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()

    @property
    def output(self) -> TensorEntry:
        """The first output: the only one of most bundles."""
        return self.outputs[0]


@dataclass(frozen=True)
class LabelsSection:
    """Label embeddings: `n` rows of `dim`, their files, and what they were made from."""

    files: Mapping[str, FileEntry]
    n: int
    dim: int
    logit_scale: float
    weights: Origin
    templates: Sequence[str] = ()
    label_source: str = ""
    template_source: str = ""
    tokenizer: str = ""
    context_length: int = 0
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class TextSection:
    """The text tower's files and what an app needs to run them."""

    files: Mapping[str, FileEntry]
    input: TensorEntry
    output: TensorEntry
    context_length: int
    start_of_text: int
    end_of_text: int
    logit_scale: float
    weights: Origin
    tokenizer: str = ""
    signature: str = SIGNATURE
    scales: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. A folder of labels or of a text tower alone has no `vision`."""

    name: str
    variant: Variant
    vision: VisionSection | None = None
    labels: LabelsSection | None = None
    text: TextSection | None = None
    logit_scale: float | None = None
    prompt_templates: Sequence[str] = ()

    @property
    def sections(self) -> list[VisionSection | LabelsSection | TextSection]:
        """Those that are there."""
        return [section for section in (self.vision, self.labels, self.text) if section is not None]

    @property
    def files(self) -> dict[str, FileEntry]:
        """Every listed file of every section, by name."""
        return {name: entry for section in self.sections for name, entry in section.files.items()}

    def as_json(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        vision = _to_json(self.vision) if self.vision else {}
        if self.vision:
            vision["output"] = vision["outputs"][0]
        sections = {name: _to_json(section) for name in ("labels", "text") if (section := getattr(self, name))}
        top = {name: _to_json(getattr(self, name)) for name in ("name", "variant", "logit_scale", "prompt_templates")}
        return {"format": FORMAT, **top, **vision, **sections}


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        InputError: there is none, or it is damaged, not one of ours, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} is no bundle, its {MANIFEST} can't be read ({error.strerror}); make one with `pecore convert`"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged, it is not JSON ({error}); convert the model again") from error
    if isinstance(content, dict) and isinstance(found := content.get("format"), int) and found > FORMAT:
        raise InputError(f"{path} has format {found}, which this version does not know: update pecore-litert")
    try:
        top = {name: content.get(name) for name in ("labels", "text", "logit_scale", "prompt_templates")}
        given = {name: value for name, value in content.items() if name not in top}
        given |= {name: value for name, value in top.items() if value is not None}
        if "weights" in content:
            given["vision"] = content
        manifest = _from_json(Manifest, given, "")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a manifest of ours ({error}); convert the model again") from error
    return manifest


def _to_json(value: Any) -> Any:
    """Dataclasses as objects; fields that only some tensors and files have are left out of the others."""
    if is_dataclass(value):
        optional = isinstance(value, FileEntry | TensorEntry)
        items = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: _to_json(inner) for name, inner in items if not (optional and inner is None)}
    if isinstance(value, Mapping):
        return {key: _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    return value


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """`value`, as `json.loads` gives it, as the type `kind` (dataclasses, mappings, sequences and unions with None);
    keys that a dataclass does not know are ignored. Raises ValueError with the key that is missing or of another
    type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _from_json(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"its {where or 'content'} is a {type(value).__name__}")
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)} & value.keys()
        try:
            made: Any = kind
            return made(**{name: _from_json(hints[name], value[name], f"{where}.{name}".strip(".")) for name in known})
        except TypeError as error:
            missing = str(error).partition("argument")[2].lstrip("s: ")
            raise ValueError(f"{where or 'it'} lacks {missing}") from error
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"its {where} is a {type(value).__name__}")
        return {key: _from_json(arguments[1], inner, f"{where}.{key}") for key, inner in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list):
            raise ValueError(f"its {where} is a {type(value).__name__}")
        return [_from_json(arguments[0], inner, where) for inner in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is not Any and not isinstance(value, kind):
        raise ValueError(f"its {where} is {value!r}")
    return value


@dataclass(frozen=True)
class Bundle:
    """A folder with a converted vision tower, and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def vision(self) -> VisionSection:
        """The vision tower's section, which every `Bundle` has."""
        assert self.manifest.vision is not None  # `open_bundle` refuses others
        return self.manifest.vision

    @property
    def variant(self) -> Variant:
        return self.manifest.variant

    @property
    def synthetic(self) -> bool:
        """Its weights are made up: it classifies nothing."""
        return self.vision.weights.synthetic

    def files(self, tower: str = "vision") -> dict[str, Path]:
        """Precision -> `.tflite` of a tower, `vision` or `text`, the preferred one first."""
        section = self.vision if tower == "vision" else self.manifest.text
        listed = section.files if section else {}
        made = {entry.precision: self.folder / name for name, entry in listed.items() if name.endswith(".tflite")}
        order = PRECISIONS if tower == "vision" else TEXT_PREFERENCE
        return {precision: made[precision] for precision in order if precision in made}

    def file(self, weights: str | None = None) -> Path:
        """The vision tower with weights in that precision; fp16 where there is a choice.

        Raises:
            InputError: the bundle has no such file.
        """
        files = self.files()
        chosen = weights or next(iter(files), None)
        if chosen not in files:
            have = ", ".join(files) or "no vision tower at all"
            raise InputError(
                f"{self.folder} has no {chosen or 'vision'} .tflite (it has {have}); "
                f"`pecore convert --precision {chosen or 'fp16'}` makes one"
            )
        return files[chosen]

    def damaged(self) -> list[str]:
        """Files of the manifest that are missing or are not the bytes it means."""
        return damaged(self.folder, self.manifest.files)

    @property
    def space(self) -> dict[str, Any]:
        """What tells which embeddings those of this bundle may be compared with: the vision weights' fingerprint, and
        the variant and source for people."""
        weights = self.vision.weights
        return {"size": self.variant.size, "source": weights.source, "fingerprint": weights.fingerprint}


def open_bundle(folder: str | Path) -> Bundle:
    """Open a folder that `pecore convert` wrote.

    Raises:
        InputError: it has no manifest of ours, or one that describes no vision tower.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.vision is None:
        raise InputError(f"{folder / MANIFEST} describes no vision tower; make one with `pecore convert`")
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


def file_entry(path: Path, precision: str | None = None, ops: int | None = None) -> FileEntry:
    """The manifest's entry of a file."""
    return FileEntry(path.stat().st_size, sha256(path), precision, ops)


def damaged(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Those of `files` that are missing in `folder` or are not the bytes that their entries mean."""
    return [n for n, entry in files.items() if not (folder / n).is_file() or sha256(folder / n) != entry.sha256]


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


def require_same_checkpoint(text: Origin, size: str, other: Origin | None, other_size: str, where: str) -> None:
    """Refuse to use a text tower's embeddings together with what another checkpoint made.

    Args:
        text: of the text tower. other: of what it is to be used with; None where only the sizes are to be compared.
        size, other_size: of the variants.
        where: the bundle that `other` is in, for the message.

    Raises:
        InputError: naming both.
    """
    if size != other_size:
        reason: str | None = f"of {other_size}, not of {size}"
    else:
        reason = different_checkpoint(text, other) if other else None
    if reason:
        raise InputError(
            f"what {where} holds is {reason}, and embeddings of different checkpoints can't be compared: make both "
            "from the same one, or give another folder"
        )


def different_checkpoint(text: Origin, other: Origin) -> str | None:
    """Why embeddings of a text tower can't be compared with another tower's of its variant; None where they can."""
    one, two = text.fingerprint, other.fingerprint
    if text.synthetic != other.synthetic:
        same = False
    elif one is not None and one == two:
        same = True
    elif text.synthetic:
        same = None in (one, two) and text.seed == other.seed
    else:  # the hub's two repositories of a variant are the publisher's split of one checkpoint
        same = text.kind == other.kind == "hub"
    return None if same else f"from {other.source}, not from {text.source}"
