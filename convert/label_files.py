"""Label and template files: one a line, as they are.

A file of another form is refused: CLIP would read its numbers, quotes and braces as part of every label, and nothing
later would look wrong.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten

from pecore.errors import InputError
from pecore.tokenizer import clean

TEMPLATE_SETS = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}  # names in open_clip
SHOWN = 3  # labels named in a warning

NUMBERED = re.compile(r"""["'(\[#]?(\d+)["']?(\s*[.:,;)\]=|](?!\d)|\s+-\s|-\s|\s)\s*\S""")
QUOTED = re.compile(r"""(["'`]).*\1,?""")
CODE = re.compile(r"[{\[]$|^[}\]][,;]*$|[:=]\s*[\[{]")
WNID = re.compile(r"n\d{8}\b")
BULLET = re.compile(r"[-*•]\s")
HEADER_WORDS = (
    "label, labels, name, names, class, classes, category, categories, id, index, idx, wnid, synset, class name, "
    "classname, class id, label name, label id, classes:, names:, labels:"
)
"""Lower-case names of columns."""


def read_label_names(source: str) -> list[str]:
    """`imagenet` (the 1000 names that open_clip carries), or a file's lines.

    Raises:
        InputError: a file that can't be read, or is not one label a line; it names the line.
    """
    if source == "imagenet":
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES)
    labels = _lines(Path(source), "label", "or --labels imagenet")
    for found in filter(None, (form(labels) for form in FORMS)):
        line, what = found
        raise InputError(
            f"{source} is not one label a line: line {line + 1}, {shorten(labels[line], 50)!r}, {what}; leave nothing "
            "in the file but names, one a line"
        )
    return labels


def read_templates(source: str) -> list[str]:
    """`openai` (80 templates), `simple` (7), or a file's lines, each with a `{}`; raises InputError."""
    if source in TEMPLATE_SETS:
        import open_clip

        return [template("{}") for template in getattr(open_clip, TEMPLATE_SETS[source])]
    templates = _lines(Path(source), "template", "or --templates openai or simple")
    for number, template in enumerate(templates, start=1):
        if "{}" not in template:
            raise InputError(
                f"template {template!r} (line {number} of {source}) has no {{}}: put it where the label goes"
            )
    return templates


def duplicates(labels: Sequence[str]) -> list[str]:
    """Labels that the tokenizer, which cleans and lower-cases, can't tell from an earlier one."""
    seen: set[str] = set()
    found = []
    for label in labels:
        key = clean(label)
        if key in seen:
            found.append(label)
        seen.add(key)
    return found


def doubtful(labels: Sequence[str]) -> list[str]:
    """Warnings, one a kind of doubt, about labels that are taken as they are but may be meant otherwise."""
    numbered = labels if _all_numbered(labels) else []
    return [
        *named("is there twice, so it shares its probability with the first", duplicates(labels)),
        *named("begins with a number, which is read as part of the label", numbered),
        *named("is a number and no name", [label for label in labels if label.isdecimal()]),
        *named("has _, which the text tower does not read as a space", [label for label in labels if "_" in label]),
        *named("has quotes around it, which are read as part of it", [s for s in labels if QUOTED.fullmatch(s)]),
        *named("looks like a comment and is taken for a label", [s for s in labels if s.startswith(("#", "//"))]),
    ]


def named(what: str, labels: Sequence[str]) -> list[str]:
    """A warning for the labels it concerns, the first few by name; none where it concerns none."""
    if not labels:
        return []
    more = f" (and {len(labels) - SHOWN} more labels)" if len(labels) > SHOWN else ""
    return [f"{', '.join(repr(shorten(label, 50)) for label in labels[:SHOWN])}{more} {what}"]


Form = Callable[[Sequence[str]], tuple[int, str] | None]
"""Lines of a file -> which line shows that they are no labels, and what it is; None where they may be."""


def _structured(lines: Sequence[str]) -> tuple[int, str] | None:
    if lines[0][0] in "{[" and lines[-1][-1] in "}]":
        return 0, "looks like the beginning of JSON"
    line = next((i for i, line in enumerate(lines) if CODE.search(line)), None)
    return None if line is None else (line, "has a bracket, as in JSON, YAML or code")


def _header(lines: Sequence[str]) -> tuple[int, str] | None:
    fields = [field.strip(" \"'").lower().replace("_", " ") for field in re.split(r"[,;\t|]", lines[0])]
    if len(lines) > 1 and set(HEADER_WORDS.split(", ")).issuperset(fields):
        return 0, "looks like a table's header"
    return None


def _columns(lines: Sequence[str]) -> tuple[int, str] | None:
    tab = next((i for i, line in enumerate(lines) if "\t" in line), None)
    if tab is not None:
        return tab, "has a tab in it, as in a table"
    if len(lines) == 1:
        return (0, "holds several names with commas between them") if lines[0].count(",") > 1 else None
    for pattern, sign in ((r",(?!\s|$)", "commas"), (";", "semicolons"), (r"\|", "bars")):
        counts = {len(re.findall(pattern, line)) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return 0, f"has as many {sign} as every other line, as in a table"
    return (0, "ends in a comma, as the others") if all(line.endswith(",") for line in lines[:-1]) else None


def _numbered(lines: Sequence[str]) -> tuple[int, str] | None:
    first = NUMBERED.match(lines[0])
    if not first or not _all_numbered(lines):
        return None
    if first[1] != "0" and first[2].isspace():  # "1 apple", "2 apples": a warning will do
        return None
    return 0, "begins with a number" + ", as every line" * (len(lines) > 1)


def _marked(lines: Sequence[str]) -> tuple[int, str] | None:
    """Each line marked in one way."""
    for pattern, what in ((QUOTED, "is in quotes"), (BULLET, "begins with a bullet"), (WNID, "has a WordNet id")):
        match = pattern.fullmatch if pattern is QUOTED else pattern.match
        if all(match(line) for line in lines):
            return 0, f"{what}, as every line"
    return None


def _all_numbered(lines: Sequence[str]) -> bool:
    """Whether every line begins with a number of its own; of a single line, with 0."""
    found = [NUMBERED.match(line) for line in lines]
    numbers = [int(match[1]) for match in found if match]
    return len(set(numbers)) == len(lines) and (len(lines) > 1 or numbers == [0])


FORMS: tuple[Form, ...] = (_structured, _header, _numbered, _columns, _marked)


def _lines(path: Path, what: str, instead: str) -> list[str]:
    """A UTF-8 file's lines, stripped; blank ones at the end are none."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path} is not UTF-8 (line {line}): save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"can't read {str(path)[:200]} ({reason}): give a file with one {what} a line, {instead}"
        ) from error
    if "\0" in text:
        raise InputError(f"{path} is not a UTF-8 text file: save it as UTF-8, with one {what} a line")
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")]
    if lines == [""]:
        raise InputError(f"{path} is empty: give it one {what} a line")
    if "" in lines:
        raise InputError(f"line {lines.index('') + 1} of {path} is empty: give it a {what} or take the line out")
    return lines
