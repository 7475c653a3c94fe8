"""`pecore.preprocess` on a 12-megapixel photograph beside Pillow's own resize, paired.

    python benchmarks/bench_preprocess.py --size 224

Each round runs both, in turn; the ratio is the median over rounds. From memory the other side is `Image.resize` alone;
from an array `Image.fromarray` comes before it, and from a JPEG file opening and decoding.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from pecore.preprocess import preprocess

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
            times: list[tuple[float, float]] = []
            for _ in range(options.rounds + 1):
                start = time.perf_counter()
                theirs()
                between = time.perf_counter()
                preprocess(image, options.size)
                times.append((time.perf_counter() - between, between - start))
            ratios = [ours / bare for ours, bare in times[1:]]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ours, bare = (1000 * statistics.median(t[i] for t in times[1:]) for i in (0, 1))
            print(f"| {name} | {ours:.1f} | {bare:.1f} | {middle:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
