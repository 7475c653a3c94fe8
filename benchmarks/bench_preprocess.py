"""`pecore.preprocess` on a 12-megapixel photograph beside Pillow's own resize, paired.

    python benchmarks/bench_preprocess.py --size 224

Each round runs both, in turn; the ratio is the median over rounds. From memory the other side is `Image.resize` alone;
from an array `Image.fromarray` comes before it, and from a JPEG file opening and decoding.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from pecore.image import preprocess
from pecore.timing import paired, ratio, spread

PHOTO = (4032, 3024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    photo = Image.fromarray(data.astronaut()).resize(PHOTO, Image.Resampling.LANCZOS)

    def squash(image: Image.Image) -> Image.Image:
        return image.resize((options.size, options.size), Image.Resampling.BILINEAR)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "photo.jpg")
        photo.save(file, quality=92)
        pixels = np.asarray(photo)
        cases: dict[str, tuple[Any, Callable[[], Any]]] = {
            "Pillow image": (photo, lambda: squash(photo)),
            "array": (pixels, lambda: squash(Image.fromarray(pixels))),
            "JPEG file": (file, lambda: squash(Image.open(file))),
        }
        print(f"{PHOTO[0]} x {PHOTO[1]} to {options.size}, {options.rounds} paired rounds")
        print("| from | ours, ms | Pillow, ms | ratio, median | quartiles |")
        print("|---|---|---|---|---|")
        for name, (image, theirs) in cases.items():
            times = paired({"ours": partial(preprocess, image, options.size), "Pillow": theirs}, options.rounds, warm=1)
            found = ratio(times["ours"], times["Pillow"])
            ours, bare = (1000 * spread(t).median for t in times.values())
            print(f"| {name} | {ours:.1f} | {bare:.1f} | {found.median:.2f} | {found.low:.2f} to {found.high:.2f} |")


if __name__ == "__main__":
    main()
