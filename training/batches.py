"""The training set in memory, and batches of it, each from its number alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from pecore.convert.text_tower import text_config
from pecore.convert.tokenizer_file import clip_tokenizer
from pecore.variants import find
from training.augment import augmented
from training.pictures import read_table

SIZE = "drawings-T16"
"""The variant that is trained."""
PIXELS = 128
DEVELOPMENT = "fxemoji"
"""The style that is looked at while training; it is not trained on, nor is it the held-out one."""
SMALL = 64
SMALL_SHARE = 0.88
"""Pixels of the images in the first steps, and the share of those steps."""
SEVERAL = 56
"""Names of a batch with pictures in two styles each; `SINGLE` more have one picture."""
STYLES = 2
FEWEST = 2
"""Pictures that a name has to have for the first kind."""
SINGLE = 16
STRENGTH = 0.6
"""Of the augmentation, in the end. At 1 a picture's own name was found for one training picture in eight."""
TEMPLATES = (
    "{}",
    "{}",
    "a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "a photo of a {}.",
    "an icon of a {}",
    "a cartoon {}",
    "{}, an emoji",
    "a bright picture of the {}.",
)


@dataclass(frozen=True)
class Pictures:
    """Pixels `[n, 4, PIXELS, PIXELS]` uint8, the name's index of each picture, names and keywords."""

    pixels: Tensor
    name_of: np.ndarray
    names: list[str]
    words: list[list[str]]


@dataclass(frozen=True)
class Batch:
    """Images `[n, 3, size, size]`, ids `[m, length]` of m names' captions, which of those each image shows, and the
    m names' indices among all."""

    images: Tensor
    ids: Tensor
    targets: Tensor
    names: Tensor


def read_pictures(folder: Path, split: str, style: str | None = None, without: str | None = None) -> Pictures:
    """Of `folder/pictures.tsv` (`training.pictures`), in its order."""
    rows = [row for row in read_table(folder) if row["split"] == split]
    rows = [row for row in rows if row["style"] == (style or row["style"]) and row["style"] != without]
    names = list(dict.fromkeys(row["name"] for row in rows))
    index = {name: i for i, name in enumerate(names)}
    words: list[list[str]] = [[] for _ in names]
    pixels = torch.empty(len(rows), 4, PIXELS, PIXELS, dtype=torch.uint8)
    for i, row in enumerate(rows):
        with Image.open(folder / row["file"]) as image:
            pixels[i] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        words[index[row["name"]]] = [word for word in row["words"].split(", ") if word]
    name_of = np.array([index[row["name"]] for row in rows])
    return Pictures(pixels, name_of, names, words)


def token_ids(captions: list[str]) -> Tensor:
    """`[n, context_length]` int64."""
    return torch.from_numpy(clip_tokenizer()(captions, text_config(find(SIZE)).context_length))


class Batches(IterableDataset):
    """Batch i of `steps`, from `first` on; which pictures, captions and augmentations follows from (seed, i).

    Most steps see small images, which take less than half the time; the last ones see `size`. Augmentation grows
    stronger over the first half, unless it is `full` from the start.
    """

    def __init__(
        self, pictures: Pictures, size: int, seed: int, steps: int, first: int = 0, full: bool = False
    ) -> None:
        self.pictures, self.size, self.seed, self.first, self.steps = pictures, size, seed, first, steps
        self.full = full
        of_name = defaultdict(list)
        for i, name in enumerate(pictures.name_of):
            of_name[name].append(i)
        self.of_name = of_name
        self.several = np.array([name for name, own in of_name.items() if len(own) >= FEWEST])
        self.single = np.array([name for name, own in of_name.items() if len(own) < FEWEST])

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        for step in range(self.first, self.steps):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        random = np.random.default_rng((self.seed, step))
        names = np.concatenate(
            [random.choice(self.several, SEVERAL, replace=False), random.choice(self.single, SINGLE, replace=False)]
        )
        chosen, targets = [], []
        for place, name in enumerate(names):
            own = self.of_name[name]
            some = random.permutation(own)[: STYLES if len(own) >= FEWEST else 1]
            chosen.extend(some)
            targets.extend([place] * len(some))
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        size = SMALL if step < SMALL_SHARE * self.steps else self.size
        strength = STRENGTH * (1.0 if self.full else min(1.0, 2 * step / self.steps))
        images = augmented(self.pictures.pixels[chosen], size, strength, generator)
        captions = [self.caption(name, random) for name in names]
        ids = token_ids(captions)
        return Batch(images, ids, torch.tensor(targets), torch.from_numpy(names))

    def caption(self, name: int, random: np.random.Generator) -> str:
        """The name in a template, in one of four with one or two of its keywords."""
        text = TEMPLATES[random.integers(len(TEMPLATES))].format(self.pictures.names[name])
        words = self.pictures.words[name]
        if words and random.random() < 0.25:
            some = random.permutation(words)[: random.integers(1, 3)]
            text = f"{text}, {', '.join(some)}"
        return text
