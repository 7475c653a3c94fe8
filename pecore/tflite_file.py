"""What a path holds, by its first bytes: a `.tflite`, something that a `.tflite` is packed in, or neither."""

import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path

from pecore.errors import InputError

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every `.tflite`."""

_SHOWN = 3  # members of an archive named in a sentence


def check_tflite_head(path: Path) -> None:
    """Refuse what does not begin as a `.tflite` does.

    Raises:
        InputError: the file is missing, empty, unreadable, an archive that a `.tflite` has to be taken out of first, or
            of another format.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"LiteRT takes no file name that is not UTF-8: rename {path}") from error
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}; give the path of a .tflite file") from error
    if not head:
        raise InputError(f"{path} is empty; convert the model again")
    if head[4:] == IDENTIFIER:
        return
    if head == b"LITERTLM":
        raise InputError(
            f"{path} is a LiteRT-LM container, and the .tflite files are inside: take them out with "
            f"`pip install litert-lm-builder` and `litert-lm-peek --litertlm_file {path} --dump_files_dir DIR`"
        )
    if zipfile.is_zipfile(path):
        raise InputError(_about_zip(path))
    raise InputError(f"{path} is not a .tflite file (no TFL3 mark); give one that `pecore convert` wrote")


def not_known(what: str) -> str:
    """What a number means that LiteRT's schema has no name for, in words to follow a path."""
    return (
        f"has {what}, which LiteRT {version('ai-edge-litert')} has no name for: it was made for a newer runtime, or is "
        "damaged; run `pip install -U ai-edge-litert`, or convert it again"
    )


def _about_zip(path: Path) -> str:
    """What to do with a zip, such as a MediaPipe `.task`: the models in it, by their first bytes, not by their names
    (those of language models have no suffix)."""
    inside = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    if member.read(8)[4:] == IDENTIFIER:
                        inside.append(name)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        EOFError,
        zlib.error,
    ):  # damaged, or under a password
        pass
    if not inside:
        return f"{path} is a zip archive and not a .tflite file, and holds none either; give a .tflite"
    more = f" and {len(inside) - _SHOWN} more" if len(inside) > _SHOWN else ""
    return (
        f"{path} is a zip archive (as a MediaPipe .task is), and the .tflite is inside: {', '.join(inside[:_SHOWN])}"
        f"{more}; take it out with `unzip {path} {inside[0]}` and give that"
    )
