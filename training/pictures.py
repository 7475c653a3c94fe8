"""Gathers pictures and their names from packages: emoji in thirteen styles and a clip-art library.

    python -m training.pictures build/training

writes `build/training/pictures/` (PNG, RGBA, 128 pixels) and `build/training/pictures.tsv` (`FIELDS`). The names of
emoji are Unicode's short names (emojibase), those of clip-arts their titles. What may be trained on is in `SOURCES`
with its licence; `openmoji` is held out whole, and a tenth of the clip-arts (`held_out`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

FIELDS = ("file", "name", "words", "style", "split")
"""Of pictures.tsv. `words` are keywords, separated by commas; `split` is train or held-out."""

SIDE = 128
LARGEST = 16_000_000
"""Pixels of a clip-art that is still read."""
NAMES_PACKAGE = "emojibase-data"
TITLES_PACKAGE = "openclipart-svg"
SKIPPED_GROUPS = (None, 2)  # emojibase: regional indicators, and components such as skin tones
NO_CLIP_ARTS = ("shapes/stars", "special/gradients", "computer/icons", "recreation/games/cards")
"""Folders whose files are numbered variations, or carry no title of their own."""


@dataclass(frozen=True)
class Source:
    """One style. `package` is on npm, or Debian's where `debian`; `kind` says how it is read (`READERS`)."""

    style: str
    package: str
    kind: str
    licence: str
    author: str
    debian: bool = False
    held_out: bool = False


SOURCES = (
    Source("noto", "@iconify-json/noto", "iconify", "Apache-2.0", "Google"),
    Source("noto-v1", "@iconify-json/noto-v1", "iconify", "Apache-2.0", "Google"),
    Source("noto-font", "@expo-google-fonts/noto-emoji", "font", "OFL-1.1", "Google"),
    Source("twemoji", "@iconify-json/twemoji", "iconify", "CC-BY-4.0", "Twitter"),
    Source("fluent", "@iconify-json/fluent-emoji", "iconify", "MIT", "Microsoft"),
    Source("fluent-flat", "@iconify-json/fluent-emoji-flat", "iconify", "MIT", "Microsoft"),
    Source("fluent-contrast", "@iconify-json/fluent-emoji-high-contrast", "iconify", "MIT", "Microsoft"),
    Source("fluent-3d", "@lobehub/fluent-emoji-3d", "files", "MIT", "Microsoft"),
    Source("emojione", "@iconify-json/emojione", "iconify", "CC-BY-4.0", "EmojiOne"),
    Source("emojione-mono", "@iconify-json/emojione-monotone", "iconify", "CC-BY-4.0", "EmojiOne"),
    Source("fxemoji", "@iconify-json/fxemoji", "iconify", "Apache-2.0", "Mozilla"),
    Source("streamline", "@iconify-json/streamline-emojis", "iconify", "CC-BY-4.0", "Streamline"),
    Source("clip-art", "openclipart-png", "clip-art", "public domain", "Open Clip Art Library", debian=True),
    Source("openmoji", "openmoji", "files", "CC-BY-SA-4.0", "OpenMoji", held_out=True),
)


@dataclass(frozen=True)
class Emoji:
    """A name of Unicode's, keywords for it, and the characters."""

    name: str
    words: tuple[str, ...]
    characters: str


@dataclass(frozen=True)
class Names:
    """Emoji by code points (lower case, joined by `-`, without variation selectors) and by the name's letters."""

    by_code: dict[str, Emoji]
    by_letters: dict[str, Emoji]


Picture = tuple[str, tuple[str, ...], Image.Image]
"""Name, keywords and pixels (RGBA)."""


def code(text: str) -> str:
    """Code points as `Names.by_code` has them: "1F3F3-FE0F" -> "1f3f3"."""
    return "-".join(part.lstrip("0") for part in text.lower().split("-") if part != "fe0f")


def letters(text: str) -> str:
    """What is left of a name when it is compared with another package's spelling."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def read_names(folder: Path) -> Names:
    """Unicode's names from emojibase, without skin tones and components."""
    rows = json.loads((folder / "en" / "data.json").read_text("utf-8"))
    by_code = {
        code(row["hexcode"]): Emoji(row["label"].replace(":", ""), tuple(row.get("tags", ())), row["emoji"])
        for row in rows
        if row.get("group") not in SKIPPED_GROUPS
    }
    return Names(by_code, {letters(emoji.name): emoji for emoji in by_code.values()})


def fetch(source: str, debian: bool, into: Path) -> Path:
    """The package's files, in a folder of its name under `into`; what is there is not fetched again."""
    folder = into / source.replace("/", "_").lstrip("@")
    if folder.is_dir():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    subprocess.run(["rm", "-rf", partial], check=True)
    partial.mkdir()
    print(f"fetching {source}", flush=True)
    if debian:
        subprocess.run(["apt-get", "download", "-q", source], cwd=partial, check=True, stdout=subprocess.DEVNULL)
        (archive,) = partial.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
    else:
        subprocess.run(["npm", "pack", "--silent", source], cwd=partial, check=True, stdout=subprocess.DEVNULL)
        (archive,) = partial.glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    archive.unlink()
    partial.rename(folder)
    return folder


def render(svg: str) -> Image.Image:
    """An SVG, fitted into SIDE x SIDE."""
    import resvg_py

    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE))))
    return fitted(image.convert("RGBA"))


def fitted(image: Image.Image) -> Image.Image:
    """In the middle of SIDE x SIDE transparent pixels, its own shape kept."""
    image = image.convert("RGBA")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square


def iconify(folder: Path, names: Names) -> Iterator[Picture]:
    """An icon set in Iconify's JSON: SVG bodies by name, code points in `chars.json` where the set has them."""
    package = folder / "package"
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    chars = json.loads((package / "chars.json").read_text("utf-8"))
    codes = {name: code(points) for points, name in reversed(chars.items())}
    side = icons.get("width", 16)
    done = set()
    for name, icon in icons["icons"].items():
        emoji = names.by_code.get(codes.get(name, "")) or names.by_letters.get(letters(name))
        if emoji is None or emoji.name in done:
            continue
        done.add(emoji.name)
        width, height = icon.get("width", side), icon.get("height", icons.get("height", side))
        box = f"0 0 {width} {height}"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
        body = icon["body"].replace("currentColor", "#222")
        yield emoji.name, emoji.words, render(f"{head}{body}</svg>")


def files(folder: Path, names: Names) -> Iterator[Picture]:
    """Files whose names are code points: OpenMoji's coloured SVG, Fluent's rendered WebP."""
    package = folder / "package"
    for path in sorted([*package.glob("color/svg/*.svg"), *package.glob("assets/*.webp")]):
        emoji = names.by_code.get(code(path.stem))
        if emoji is not None:
            image = render(path.read_text("utf-8")) if path.suffix == ".svg" else fitted(Image.open(path))
            yield emoji.name, emoji.words, image


def font(folder: Path, names: Names) -> Iterator[Picture]:
    """Glyphs of single characters, black lines."""
    (path,) = folder.glob("package/400Regular/*.ttf")
    face = ImageFont.truetype(str(path), 100)
    missing = bytes(face.getmask("\U0010ffff"))
    for emoji in names.by_code.values():
        character = emoji.characters.replace("\ufe0f", "")
        if len(character) != 1 or bytes(face.getmask(character)) == missing:
            continue
        image = Image.new("RGBA", (SIDE, SIDE))
        ImageDraw.Draw(image).text((SIDE // 2, SIDE // 2), character, "#222", font=face, anchor="mm")
        yield emoji.name, emoji.words, image


def clip_art(folder: Path, names: Names, titles: Path) -> Iterator[Picture]:
    """Debian's Open Clip Art: pixels of one package, titles and keywords of the SVG in the other."""
    Image.MAX_IMAGE_PIXELS = None  # one of them has 231 million; they are skipped by LARGEST
    pixels = folder / "usr/share/openclipart/png"
    for path in sorted(pixels.rglob("*.png")):
        relative = path.relative_to(pixels)
        drawing = titles / "usr/share/openclipart/svg" / relative.with_suffix(".svg")
        if str(relative).startswith(NO_CLIP_ARTS) or path.is_symlink() or not drawing.is_file():
            continue
        text = drawing.read_text("utf-8", errors="replace")
        title = re.search(r"<dc:title>([^<]*)", text)
        name = cleaned(title.group(1)) if title else ""
        words = [cleaned(word) for word in re.findall(r"<rdf:li>([^<]*)", text)]
        if len(name) < 3 or "open clip art" in name:
            continue
        with Image.open(path) as image:
            if image.width * image.height <= LARGEST:
                yield name, tuple(dict.fromkeys(w for w in words if w and w != name)), fitted(image)


def cleaned(title: str) -> str:
    """Lower case, without numbers at its end, file endings and punctuation."""
    text = re.sub(r"\.(svg|png)$", "", title.strip().lower())
    text = re.sub(r"[_\-/]+", " ", text)
    text = re.sub(r"\b(icon|clip ?art|version|remix)\b", "", text)
    return re.sub(r"[\s#.]*\d*$", "", re.sub(r"\s+", " ", text)).strip(" .,:;'\"()")


READERS: dict[str, Callable[..., Iterator[Picture]]] = {
    "iconify": iconify,
    "files": files,
    "font": font,
    "clip-art": clip_art,
}


def held_out(source: Source, name: str) -> bool:
    """Whole styles, and every tenth clip-art by the hash of its name (so that one name is on one side)."""
    if source.style == "clip-art":
        return hashlib.sha256(name.encode()).digest()[0] % 10 == 0
    return source.held_out


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of `pictures.tsv` in a folder that `gather` filled, by `FIELDS`."""
    with (folder / "pictures.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def gather(out: Path) -> None:
    """Writes `pictures/` and `pictures.tsv` into `out`, and prints how many each style gave."""
    packages = out / "packages"
    names = read_names(fetch(NAMES_PACKAGE, False, packages) / "package")
    rows: list[dict[str, Any]] = []
    for source in SOURCES:
        folder = fetch(source.package, source.debian, packages)
        extra = (fetch(TITLES_PACKAGE, True, packages),) if source.kind == "clip-art" else ()
        target = out / "pictures" / source.style
        target.mkdir(parents=True, exist_ok=True)
        count = 0
        for name, words, image in READERS[source.kind](folder, names, *extra):
            if not image.getbbox():
                continue
            file = target / f"{count:05d}.png"
            image.save(file)
            count += 1
            split = "held-out" if held_out(source, name) else "train"
            row = (str(file.relative_to(out)), name, ", ".join(words), source.style, split)
            rows.append(dict(zip(FIELDS, row, strict=True)))
        print(f"{source.style}: {count} pictures, {source.licence}", flush=True)
    with (out / "pictures.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder for packages, pictures and their table")
    gather(parser.parse_args().out)


if __name__ == "__main__":
    main()
