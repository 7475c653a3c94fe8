"""Trains the small Perception Encoder that lies in this repository (`README.md`).

    python -m training.train build/training --out build/training/run

The same seed gives the same batches; a run that was stopped goes on from its last state when it is started again.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from pecore.variants import find
from training.augment import plain
from training.batches import DEVELOPMENT, SIZE, Batch, Batches, Pictures, read_pictures, token_ids
from training.towers import CHUNK, Towers, read_checkpoint, settle, write_checkpoint

STATE = "state.pt"
CHECKPOINT = "open_clip_model.safetensors"
PROTOTYPE_NORM = 4.0
"""With which prototypes start: their directions alone count, and the longer they are the slower they turn."""
PROTOTYPE_SCALE = 20.0
"""Of the cosines with prototypes: among thousands of names CLIP's own scale, which fits a batch's, tells too little."""
SETTLING = 8
"""Batches whose mean embedding is folded into the towers (`towers.settle`)."""


@dataclass(frozen=True)
class Plan:
    """What is trained how long. Rates are AdamW's."""

    steps: int = 3800
    rate: float = 1e-3
    decay: float = 0.1
    warm_up: int = 200
    averaging: float = 0.998
    smoothing: float = 0.1
    save_every: int = 100
    look_every: int = 500
    bf16: bool = True

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to a hundredth."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Run:
    """Towers, their running average, a prototype of each name, and the optimizer. `start` is a checkpoint to go on
    from with a new schedule."""

    def __init__(
        self, pictures: Pictures, development: Pictures, plan: Plan, folder: Path, seed: int, start: Path | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.variant = variant = find(SIZE)
        self.pictures, self.development = pictures, development
        self.plan, self.folder, self.seed = plan, folder, seed
        self.towers = Towers(variant)
        self.prototypes = nn.Parameter(torch.randn(len(pictures.names), variant.embedding_dim))
        if start:
            read_checkpoint(self.towers, variant, start)
            self.prototypes.data = embedded(self.towers.eval(), pictures.names)
        self.prototypes.data = PROTOTYPE_NORM * functional.normalize(self.prototypes.data, dim=-1)
        self.warm = start is not None
        self.average = copy.deepcopy(self.towers).eval().requires_grad_(False)
        matrices = [p for p in self.towers.parameters() if p.ndim >= 2]
        others = [p for p in self.towers.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": plan.decay},
                {"params": [*others, self.prototypes], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).is_file():
            self._restore(torch.load(folder / STATE, weights_only=True))

    def train(self) -> None:
        loader = DataLoader(
            Batches(self.pictures, self.variant.image_size, self.seed, self.plan.steps, self.step, self.warm),
            batch_size=None, num_workers=1, prefetch_factor=4,
        )  # fmt: skip
        started, first = time.monotonic(), self.step
        recent = 0.0
        for batch in loader:
            loss = self.update(batch)
            recent = loss if not recent else 0.95 * recent + 0.05 * loss
            self.step += 1
            if self.step % 20 == 0:
                each = (time.monotonic() - started) / (self.step - first)
                left = each * (self.plan.steps - self.step) / 60
                scale = float(self.towers.scale.detach())
                print(
                    f"step {self.step} of {self.plan.steps}: loss {recent:.3f}, scale {scale:.1f}, "
                    f"{each:.2f} s a step, {left:.0f} min left", flush=True,
                )  # fmt: skip
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self._save()
            if self.step % self.plan.look_every == 0 or self.step == self.plan.steps:
                self.look()

    def update(self, batch: Batch) -> float:
        """One step of AdamW; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        self.towers.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bf16), sdpa_kernel(SDPBackend.MATH):
            images, texts = self.towers.images(batch.images), self.towers.texts(batch.ids)
        loss = self.loss(images, texts, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.towers.parameters(), 1.0)
        self.optimizer.step()
        keep = min(self.plan.averaging, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.towers.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        return float(loss.detach())

    def loss(self, images: Tensor, texts: Tensor, batch: Batch) -> Tensor:
        """CLIP's, both ways, where several images of the batch may be of one name: all of them are right. And each
        image's and text's own among the prototypes of *all* names, which is where names that are easily confused meet;
        images move the prototypes, texts follow them."""
        logits = self.towers.scale * images @ texts.T
        right = functional.one_hot(batch.targets, len(texts)).T.float()
        to_text = functional.cross_entropy(logits, batch.targets, label_smoothing=self.plan.smoothing)
        to_image = functional.cross_entropy(logits.T, right / right.sum(1, keepdim=True))
        clip = (to_text + to_image) / 2
        prototypes = functional.normalize(self.prototypes, dim=-1)
        of_images = functional.cross_entropy(
            PROTOTYPE_SCALE * images @ prototypes.T, batch.names[batch.targets], label_smoothing=self.plan.smoothing
        )
        of_texts = functional.cross_entropy(PROTOTYPE_SCALE * texts @ prototypes.detach().T, batch.names)
        return clip + of_images + of_texts

    def settled(self) -> Towers:
        """The averaged towers, as they are evaluated."""
        towers = copy.deepcopy(self.average)
        batches = Batches(self.pictures, self.variant.image_size, self.seed, self.plan.steps)
        some = [batches.batch(self.plan.steps + i) for i in range(SETTLING)]
        settle(towers, torch.cat([b.images for b in some]), torch.cat([b.ids for b in some]))
        return towers

    def look(self) -> None:
        """Writes the checkpoint, and prints top-1 and top-5 on the style for development, among its names."""
        pictures = self.development
        towers = self.settled()
        write_checkpoint(towers, self.folder / CHECKPOINT)
        texts = embedded(towers, pictures.names)
        with torch.no_grad():
            parts = pictures.pixels.split(CHUNK)
            images = torch.cat([towers.images(plain(part, self.variant.image_size)) for part in parts])
        best = (images @ texts.T).topk(5).indices == torch.from_numpy(pictures.name_of)[:, None]
        top1, top5 = best[:, 0].float().mean(), best.any(1).float().mean()
        print(
            f"step {self.step}: {DEVELOPMENT}, {len(pictures.names)} names: top-1 {top1:.1%}, top-5 {top5:.1%}",
            flush=True,
        )

    def _save(self) -> None:
        state = {
            "step": self.step,
            "towers": self.towers.state_dict(),
            "average": self.average.state_dict(),
            "prototypes": self.prototypes.data,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, self.folder / f"{STATE}.partial")
        (self.folder / f"{STATE}.partial").replace(self.folder / STATE)

    def _restore(self, state: dict[str, object]) -> None:
        self.step = state["step"]
        self.towers.load_state_dict(state["towers"])
        self.average.load_state_dict(state["average"])
        self.prototypes.data.copy_(state["prototypes"])
        self.optimizer.load_state_dict(state["optimizer"])
        print(f"going on from step {self.step}", flush=True)


@torch.no_grad()
def embedded(towers: Towers, names: list[str]) -> Tensor:
    """Unit vectors `[len(names), dim]` of the names as they are."""
    return torch.cat([towers.texts(token_ids(names[i : i + CHUNK])) for i in range(0, len(names), CHUNK)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="the folder that training.pictures made")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state and the checkpoint")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--rate", type=float, default=Plan.rate)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, with a new schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float32", action="store_true", help="no bfloat16: for CPUs that have no instructions for it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pictures = read_pictures(args.pictures, "train", without=DEVELOPMENT)
    print(f"{len(pictures.pixels)} pictures of {len(pictures.names)} names", flush=True)
    plan = Plan(steps=args.steps, rate=args.rate, bf16=not args.float32)
    development = read_pictures(args.pictures, "train", style=DEVELOPMENT)
    Run(pictures, development, plan, args.out, args.seed, args.start).train()


if __name__ == "__main__":
    main()
