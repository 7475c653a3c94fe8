"""Training: batches that follow from their number, a run that goes on as if it had not been stopped, and its file."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pecore.convert.checkpoint import load
from pecore.variants import find
from training import batches, train
from training.augment import augmented, plain
from training.batches import PIXELS, SIZE, Batches, Pictures, read_pictures
from training.pictures import FIELDS, cleaned
from training.towers import Towers, settle, write_checkpoint
from training.train import Plan, Run

NAMES = ("cat", "dog", "taxi", "red apple", "violin", "harp")
STYLES = ("noto", "twemoji", "fluent")
ALONE = ("castle", "old ship")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `training.pictures` writes, of made-up pictures: six names in three styles and two names in one."""
    made = tmp_path_factory.mktemp("training")
    random = np.random.default_rng(0)
    pairs = [(name, style) for style in STYLES for name in NAMES] + [(name, "clip-art") for name in ALONE]
    with (made / "pictures.tsv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, FIELDS, delimiter="\t")
        writer.writeheader()
        for i, (name, style) in enumerate(pairs):
            pixels = random.integers(0, 256, (PIXELS, PIXELS, 4), dtype=np.uint8)
            Image.fromarray(pixels, "RGBA").save(made / f"{i}.png")
            writer.writerow(dict(zip(FIELDS, (f"{i}.png", name, "animal, pet", style, "train"), strict=True)))
    return made


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Pictures:
    return read_pictures(folder, "train")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SEVERAL", 4)
    monkeypatch.setattr(batches, "SINGLE", 2)
    monkeypatch.setattr(train, "SETTLING", 1)


def test_a_style_is_left_out_or_taken_alone(folder: Path) -> None:
    assert len(read_pictures(folder, "train", without="noto").pixels) == 2 * len(NAMES) + len(ALONE)
    assert read_pictures(folder, "train", style="clip-art").names == list(ALONE)
    assert not len(read_pictures(folder, "held-out").pixels)


def test_a_batch_follows_from_seed_and_number(pictures: Pictures) -> None:
    first, again, other, reseeded = (
        Batches(pictures, 96, seed, 10).batch(step) for seed, step in [(0, 3), (0, 3), (0, 4), (1, 3)]
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, reseeded.images)
    assert len(first.ids) == 6
    assert first.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
    assert first.names.unique().numel() == 6


def test_augmentation_grows_or_is_full_from_the_start(pictures: Pictures) -> None:
    growing, full = ([Batches(pictures, 64, 0, 10, full=f).batch(i).images for i in (0, 8)] for f in (False, True))
    assert not torch.equal(growing[0], full[0])
    assert torch.equal(growing[1], full[1])


def test_small_images_first(pictures: Pictures) -> None:
    sides = [Batches(pictures, 96, 0, 10).batch(step).images.shape[-1] for step in range(10)]
    assert sides == [64] * 9 + [96]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_augmented_pictures_are_images(pictures: Pictures, strength: float) -> None:
    made = augmented(pictures.pixels, 64, strength, torch.Generator().manual_seed(1))
    assert made.shape == (len(pictures.pixels), 3, 64, 64)
    assert made.abs().max() <= 1  # and no NaN


def test_what_is_transparent_is_white() -> None:
    assert (plain(torch.zeros(1, 4, PIXELS, PIXELS, dtype=torch.uint8), 64) == 1).all()


@pytest.mark.parametrize(
    ("title", "name"),
    [("Red_Apple 03.svg", "red apple"), ("old/ship remix", "old ship"), ("clipart icon", ""), ("  'Cat' #2", "cat")],
)
def test_titles_become_names(title: str, name: str) -> None:
    assert cleaned(title) == name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in the same order each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def states(run: Run) -> dict[str, Tensor]:
    towers = {f"{of}.{key}": t for of in ("towers", "average") for key, t in getattr(run, of).state_dict().items()}
    return towers | {"prototypes": run.prototypes.data}


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(pictures: Pictures, tmp_path: Path) -> None:
    plan = Plan(steps=3, warm_up=1, save_every=2, look_every=9, bf16=False)

    def run(folder: str) -> Run:
        return Run(pictures, pictures, plan, tmp_path / folder, 0)

    whole = run("whole")
    whole.train()
    stopped = run("stopped")
    numbered = Batches(pictures, stopped.variant.image_size, 0, plan.steps)
    for step in range(2):
        stopped.update(numbered.batch(step))
        stopped.step += 1
    stopped._save()
    later = run("stopped")
    assert later.step == 2
    later.train()
    found, expected = states(later), states(whole)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_run_starts_from_a_checkpoint(pictures: Pictures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, path = Towers(find(SIZE)), tmp_path / "first.safetensors"
    write_checkpoint(first, path)
    run = Run(pictures, pictures, Plan(steps=1, bf16=False), tmp_path / "run", 1, path)
    expected, found = first.state_dict(), run.towers.state_dict()
    assert all(torch.equal(found[key], expected[key].half().float()) for key in expected if key != "log_scale")
    assert math.isclose(float(run.towers.scale.detach()), float(first.scale.detach()), rel_tol=1e-3)
    with torch.no_grad():
        assert torch.equal(run.prototypes.argsort(1), train.embedded(run.towers, pictures.names).argsort(1))


def test_a_picture_is_told_from_every_name(pictures: Pictures, tmp_path: Path) -> None:
    """The loss pulls a picture's own prototype towards it, and pushes those of names that the batch lacks."""
    run = Run(pictures, pictures, Plan(steps=10, bf16=False), tmp_path, 0)
    batch = Batches(pictures, 96, 0, 10).batch(0)
    images, texts = (functional.normalize(torch.randn(len(of), 512), dim=-1) for of in (batch.targets, batch.ids))
    run.loss(images, texts, batch).backward()
    slopes = run.prototypes.grad
    absent = [name for name in range(len(pictures.names)) if name not in batch.names.tolist()]
    assert absent
    assert all((slopes[absent] * images.sum(0)).sum(1) > 0)
    one = batch.names[batch.targets[-1]]
    assert (slopes[one] * images[-1]).sum() < 0


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    plan = Plan(steps=1000, rate=1.0, warm_up=100)
    assert plan.rate_at(0) == 0.01
    assert plan.rate_at(100) == 1.0
    assert math.isclose(plan.rate_at(1000), 0.01)


def test_settled_towers_do_what_they_did_in_training(pictures: Pictures) -> None:
    torch.manual_seed(0)
    towers = Towers(find(SIZE)).requires_grad_(False)
    batch = Batches(pictures, 96, 0, 10).batch(9)
    towers.train()
    expected = towers.images(batch.images), towers.texts(batch.ids)
    settle(towers, batch.images, batch.ids)
    torch.testing.assert_close(towers.images(batch.images), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(towers.texts(batch.ids), expected[1], atol=1e-5, rtol=0)


def test_the_file_is_read_as_any_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    towers = Towers(find(SIZE))
    write_checkpoint(towers, tmp_path / "made.safetensors")
    written = load_file(tmp_path / "made.safetensors")
    assert {t.dtype for t in written.values()} == {torch.float16}
    read = load(find(SIZE), str(tmp_path / "made.safetensors"))
    for key, tensor in towers.visual.state_dict().items():
        torch.testing.assert_close(read.state_dict[key].float(), tensor.half().float())
