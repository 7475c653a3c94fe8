"""The table of Perception Encoder variants: the single source of truth for sizes, names and repositories.

Figures: the PE paper (https://arxiv.org/abs/2504.13181), checked row by row against timm's models and, for core,
open_clip's configurations in `tests/pecore/test_variants.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pecore.errors import InputError


@dataclass(frozen=True)
class Variant:
    """One PE vision tower, or another of timm's (`pecore.convert.timm_tower.timm_variant`).

    `dataclasses.replace(variant, depth=2, image_size=64)` is a small one of the same make. Lengths are in channels
    unless said otherwise; `image_size` and `patch` are in pixels, images are square.
    """

    size: str  # what the user types: B16, spatial-B16
    artefact: str  # folder and file stem of what is written
    timm_name: str  # with the weights' tag
    open_clip_name: str  # of both towers; empty where there is no text tower
    image_size: int
    patch: int
    width: int
    depth: int  # blocks
    heads: int
    mlp_width: int  # hidden channels of a block's MLP; the pool's is 4 * width in every variant
    embedding_dim: int  # outputs of the head; 0 where there is none
    class_token: bool = True
    pool_heads: int = 8  # of the attention pool; 0 where there is none
    final_norm: bool = True  # LayerNorm after the blocks
    layer_scale: bool = False
    trained_size: int | None = None  # pixels that the checkpoint's positions are for, where that is not image_size
    registers: int = 0
    pool: str | None = None  # token or avg, where it is not what timm's tower of that name has
    counted: int | None = None  # parameters, of a tower that is no PE
    packaged: bool = False  # its checkpoint is a file of this package, not one of the hub's

    @property
    def is_pe(self) -> bool:
        return self.timm_name.startswith("vit_pe_")

    @property
    def family(self) -> str:
        """core (image and text), lang (for language models) or spatial (dense features); timm for what is no PE."""
        return self.timm_name.split("_")[2] if self.is_pe else "timm"

    @property
    def name(self) -> str:
        """Family and size, lower case: core-b16, lang-l14-tiling."""
        return (self.size if "-" in self.size or not self.is_pe else f"{self.family}-{self.size}").lower()

    @property
    def as_trained(self) -> Variant:
        """The variant of the size that its checkpoint's positions are for."""
        return replace(self, image_size=self.trained_size, trained_size=None) if self.trained_size else self

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Sequence length in the blocks: patches, and the class token where there is one."""
        return self.grid**2 + self.class_token + self.registers

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def pool_head_dim(self) -> int:
        return self.width // self.pool_heads

    @property
    def parameters(self) -> int:
        """Parameters of the vision tower, head included."""
        if self.counted is not None:
            return self.counted
        c, m = self.width, self.mlp_width

        def linear(inputs: int, outputs: int) -> int:
            return (inputs + 1) * outputs

        stem = 3 * self.patch**2 * c + (self.tokens + self.class_token) * c + 2 * c
        block = (4 + 2 * self.layer_scale) * c + linear(c, 3 * c) + linear(c, c) + linear(c, m) + linear(m, c)
        pool = c + linear(c, c) + linear(c, 2 * c) + linear(c, c) + 2 * c + linear(c, 4 * c) + linear(4 * c, c)
        tail = 2 * c * self.final_norm + pool * (self.pool_heads > 0) + linear(c, self.embedding_dim)
        return stem + self.depth * block + tail

    @property
    def output(self) -> str:
        """What it is converted for: features without a head, logits with a head of its own, else the embedding."""
        if not self.embedding_dim:
            return "features"
        if not self.is_pe:  # the head of a CLIP tower is its projection
            return "embedding" if "_clip_" in self.timm_name else "logits"
        return "embedding" if self.embedding_dim == find_timm(self.timm_name).embedding_dim else "logits"

    @property
    def output_shape(self) -> list[int]:
        """Of that output, for one image; features in NCHW."""
        return [1, self.embedding_dim] if self.embedding_dim else [1, self.width, self.grid, self.grid]

    @property
    def vision_repo(self) -> str:
        """Hub repository of the vision tower alone (`model.safetensors`, timm's keys)."""
        return f"timm/{self.timm_name}"

    @property
    def clip_repo(self) -> str:
        """Hub repository of both towers and the logit scale (`open_clip_model.safetensors`, open_clip's keys)."""
        return f"timm/{self.open_clip_name}"


def _headless(
    size: str,
    artefact: str,
    timm_name: str,
    image_size: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int,
    *,
    class_token: bool = True,
    layer_scale: bool = False,
) -> Variant:
    """lang or spatial: no pool, no final norm, no projection, no text tower."""
    return Variant(
        size=size,
        artefact=artefact,
        timm_name=timm_name,
        open_clip_name="",
        image_size=image_size,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=mlp_width,
        embedding_dim=0,
        class_token=class_token,
        pool_heads=0,
        final_norm=False,
        layer_scale=layer_scale,
    )


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
    #       Trained in `training/` on drawings: T16 for small images, with a text tower of its own.
    Variant("drawings-T16", "pe_drawings_tiny_96", "vit_pe_core_tiny_patch16_384.fb", "PE-Drawings-T-16-96",
                     96, 16,  192,  12,   3,    768,     512, packaged=True),
    #         size               artefact                        timm
    #                  px patch width depth heads mlp_width
    _headless("lang-L14",        "pe_lang_large_448",            "vit_pe_lang_large_patch14_448.fb",
                      448, 14, 1024,  23,  16,   4096, layer_scale=True),
    _headless("lang-L14-tiling", "pe_lang_large_448_tiling",     "vit_pe_lang_large_patch14_448.fb_tiling",
                      448, 14, 1024,  23,  16,   4096, layer_scale=True),
    _headless("lang-G14",        "pe_lang_gigantic_448",         "vit_pe_lang_gigantic_patch14_448.fb",
                      448, 14, 1536,  47,  16,   8960, layer_scale=True, class_token=False),
    _headless("lang-G14-tiling", "pe_lang_gigantic_448_tiling",  "vit_pe_lang_gigantic_patch14_448.fb_tiling",
                      448, 14, 1536,  47,  16,   8960, layer_scale=True, class_token=False),
    _headless("spatial-T16",     "pe_spatial_tiny_512",          "vit_pe_spatial_tiny_patch16_512.fb",
                      512, 16,  192,  12,   3,    768),
    _headless("spatial-S16",     "pe_spatial_small_512",         "vit_pe_spatial_small_patch16_512.fb",
                      512, 16,  384,  12,   6,   1536),
    _headless("spatial-B16",     "pe_spatial_base_512",          "vit_pe_spatial_base_patch16_512.fb",
                      512, 16,  768,  12,  12,   3072),
    _headless("spatial-L14",     "pe_spatial_large_448",         "vit_pe_spatial_large_patch14_448.fb",
                      448, 14, 1024,  24,  16,   4096),
    _headless("spatial-G14",     "pe_spatial_gigantic_448",      "vit_pe_spatial_gigantic_patch14_448.fb",
                      448, 14, 1536,  50,  16,   8960, layer_scale=True, class_token=False),
)
# fmt: on


def find(name: str) -> Variant:
    """The variant called `name`: a core tower's size (B16), or family and size (core-b16, spatial-B16); case does not
    matter. Raises InputError with the list when there is none."""
    wanted = name.strip().lower()
    for variant in VARIANTS:
        if wanted in (variant.size.lower(), variant.name):
            return variant
    raise InputError(f"unknown size {name!r}: choose one of {', '.join(v.size for v in VARIANTS)}")


def find_timm(name: str) -> Variant:
    """The variant that timm calls `name`, with or without the weights' tag. Raises InputError when there is none."""
    for variant in VARIANTS:
        if name.strip() in (variant.timm_name, variant.timm_name.partition(".")[0]):
            return variant
    names = ", ".join(dict.fromkeys(v.timm_name.partition(".")[0] for v in VARIANTS))
    raise InputError(f"{name!r} is no Perception Encoder of timm's: choose one of {names}")


def resized(variant: Variant, image_size: int) -> Variant:
    """`variant` for images of another size: its positions are interpolated as timm does it
    (`pecore.convert.towers.build_tower`), and its artefact's name carries the size.

    Raises:
        InputError: not a positive multiple of the patch size.
    """
    if image_size == variant.image_size:
        return variant
    if image_size <= 0 or image_size % variant.patch:
        nearest = max(1, round(image_size / variant.patch)) * variant.patch
        raise InputError(
            f"image size {image_size} is not a positive multiple of {variant.size}'s patch size {variant.patch}: "
            f"try --image-size {nearest}"
        )
    artefact = re.sub(r"_\d+" if variant.is_pe else r"_\d+$", f"_{image_size}", variant.artefact)
    return replace(variant, image_size=image_size, artefact=artefact, trained_size=variant.as_trained.image_size)
