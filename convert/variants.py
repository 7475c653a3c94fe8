"""The table of Perception Encoder variants: the single source of truth for sizes, names and repositories.

Figures: the PE paper (https://arxiv.org/abs/2504.13181), checked row by row against timm's models and open_clip's
configurations in `tests/convert/test_variants.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch

from pecore.errors import InputError

if TYPE_CHECKING:
    from timm.models.eva import Eva


@dataclass(frozen=True)
class Variant:
    """One PE-Core vision tower; `dataclasses.replace(variant, depth=2, image_size=64)` is a small one of the same make.

    Lengths are in channels unless said otherwise; `image_size` and `patch` are in pixels, images are square.
    """

    size: str  # what the user types: B16
    artefact: str  # folder and file stem of what is written
    timm_name: str  # with the weights' tag
    open_clip_name: str
    image_size: int
    patch: int
    width: int
    depth: int  # blocks
    heads: int
    mlp_width: int  # hidden channels of a block's MLP; the pool's is 4 * width in every variant
    embedding_dim: int
    class_token: bool = True
    pool_heads: int = 8

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Sequence length in the blocks: patches, and the class token where there is one."""
        return self.grid**2 + self.class_token

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def pool_head_dim(self) -> int:
        return self.width // self.pool_heads

    @property
    def parameters(self) -> int:
        """Parameters of the vision tower, head included."""
        c, m = self.width, self.mlp_width

        def linear(inputs: int, outputs: int) -> int:
            return (inputs + 1) * outputs

        stem = 3 * self.patch**2 * c + (self.tokens + self.class_token) * c + 2 * c
        block = 4 * c + linear(c, 3 * c) + linear(c, c) + linear(c, m) + linear(m, c)
        pool = c + linear(c, c) + linear(c, 2 * c) + linear(c, c) + 2 * c + linear(c, 4 * c) + linear(4 * c, c)
        return stem + self.depth * block + 2 * c + pool + linear(c, self.embedding_dim)

    @property
    def vision_repo(self) -> str:
        """Hub repository of the vision tower alone (`model.safetensors`, timm's keys)."""
        return f"timm/{self.timm_name}"

    @property
    def clip_repo(self) -> str:
        """Hub repository of both towers and the logit scale (`open_clip_model.safetensors`, open_clip's keys)."""
        return f"timm/{self.open_clip_name}"


# fmt: off
VARIANTS: tuple[Variant, ...] = (
    #       size   artefact                timm                                   open_clip
    #                px patch width depth heads mlp_width dim
    Variant("T16", "pe_core_tiny_384",     "vit_pe_core_tiny_patch16_384.fb",     "PE-Core-T-16-384",
                    384, 16,  192,  12,   3,    768,     512),
    Variant("S16", "pe_core_small_384",    "vit_pe_core_small_patch16_384.fb",    "PE-Core-S-16-384",
                    384, 16,  384,  12,   6,   1536,     512),
    Variant("B16", "pe_core_base_224",     "vit_pe_core_base_patch16_224.fb",     "PE-Core-B-16",
                    224, 16,  768,  12,  12,   3072,    1024),
    Variant("L14", "pe_core_large_336",    "vit_pe_core_large_patch14_336.fb",    "PE-Core-L-14-336",
                    336, 14, 1024,  24,  16,   4096,    1024),
    Variant("G14", "pe_core_gigantic_448", "vit_pe_core_gigantic_patch14_448.fb", "PE-Core-bigG-14-448",
                    448, 14, 1536,  50,  16,   8960,    1280, class_token=False),
)
# fmt: on


def find(size: str) -> Variant:
    """The variant called `size` (case does not matter). Raises InputError with the list of sizes when there is none."""
    for variant in VARIANTS:
        if variant.size == size.strip().upper():
            return variant
    raise InputError(f"unknown size {size!r}: choose one of {', '.join(v.size for v in VARIANTS)}")


def build_tower(
    variant: Variant,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Eva:
    """timm's own tower for `variant`, in eval mode, without gradients and without any download.

    Maps images [n, 3, image_size, image_size] to embeddings [n, embedding_dim] *before* L2 normalisation.

    With `state_dict` (timm's keys, all of them: a mismatch raises RuntimeError) the tower takes over those tensors
    instead of initialising its own, so it costs no second copy of the weights; where neither dtype nor device
    changes they stay shared, and neither side may be written to. Without it, timm's untrained initialisation.
    """
    if state_dict is None:
        tower = _create(variant, variant.depth, device)
    else:
        tower = _create(variant, variant.depth, "meta")
        tower.load_state_dict({k: v.to(device, dtype) for k, v in state_dict.items()}, strict=True, assign=True)
        # The RoPE tables are no part of a state dict; a tower without blocks computes the same ones.
        tower.rope = _create(variant, 0, device).rope
    return tower.to(dtype).eval().requires_grad_(False)


@lru_cache(maxsize=32)
def tower_shapes(variant: Variant) -> Mapping[str, tuple[int, ...]]:
    """Key -> shape of the state dict that `build_tower(variant)` takes."""
    return {key: tuple(t.shape) for key, t in _create(variant, variant.depth, "meta").state_dict().items()}


def _create(variant: Variant, depth: int, device: str | torch.device) -> Eva:
    import timm  # takes seconds, and not every verb needs it

    with torch.device(device):
        tower = timm.create_model(
            variant.timm_name,
            pretrained=False,
            img_size=variant.image_size,
            embed_dim=variant.width,
            depth=depth,
            num_heads=variant.heads,
            mlp_ratio=variant.mlp_width / variant.width,
            attn_pool_num_heads=variant.pool_heads,
            num_classes=variant.embedding_dim,
        )
    return cast("Eva", tower)
