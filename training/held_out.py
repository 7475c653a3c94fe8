"""Lays held-out pictures out for `pecore evaluate`: a folder for each name, and `labels.txt`.

    python -m training.held_out build/training --style openmoji --out build/held-out/openmoji

Each picture is on white, as it is read anyway. With `--sample 200` a part of them, chosen by the hash of the name.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections import defaultdict
from pathlib import Path

from PIL import Image

from training.pictures import read_table

UNSAFE = '*/\\:?"<>|'
"""Characters that some file system refuses; such a name is left out."""


def rows(pictures: Path, style: str) -> dict[str, list[Path]]:
    """Name -> files of the held-out pictures of a style."""
    found: dict[str, list[Path]] = defaultdict(list)
    for row in read_table(pictures):
        if row["split"] == "held-out" and row["style"] == style and not set(row["name"]) & set(UNSAFE):
            found[row["name"]].append(pictures / row["file"])
    return dict(found)


def lay_out(found: dict[str, list[Path]], out: Path) -> None:
    """Writes `out/images/NAME/*.png`, what was there before being replaced, and `out/labels.txt`."""
    shutil.rmtree(out / "images", ignore_errors=True)
    for name, paths in found.items():
        folder = out / "images" / name
        folder.mkdir(parents=True)
        for path in paths:
            with Image.open(path) as image:
                white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            white.convert("RGB").quantize(256).save(folder / path.name, optimize=True)
    (out / "labels.txt").write_text("".join(f"{name}\n" for name in found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="the folder that training.pictures made")
    parser.add_argument("--style", default="openmoji", help="openmoji or clip-art")
    parser.add_argument("--sample", type=int, default=0, help="so many names; 0 takes all")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = rows(args.pictures, args.style)
    if args.sample:
        chosen = sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())[: args.sample]
        found = {name: found[name] for name in sorted(chosen)}
    lay_out(found, args.out)
    print(f"{sum(map(len, found.values()))} pictures of {len(found)} names in {args.out}")


if __name__ == "__main__":
    main()
