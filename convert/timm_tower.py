"""timm's towers by name: what is known of them, and small ones of the same make for tests and measurements."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from pecore.errors import InputError
from pecore.image import Resize
from pecore.rewrites.tower import UnsupportedTowerError, check_block, check_tower, layer_scaled
from pecore.variants import Variant, find_timm, resized

PE_PREPROCESSING = {
    "summary": "RGB, squashed to the input's square (antialiased bilinear, as Pillow; no crop), then to the range",
    "resize": "squash",
    "filter": "bilinear, antialiased",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


def eva_names() -> list[str]:
    """Every entry point of timm's Eva class, without the weights' tags."""
    import timm  # takes seconds, and not every verb needs it

    return timm.list_models(module="eva")


def vit_names() -> list[str]:
    """Every entry point of timm's plain ViT; some have parts that no rewrite covers."""
    import timm

    return timm.list_models(module="vision_transformer")


def timm_variant(name: str, image_size: int | None = None, pool: str | None = None) -> Variant:
    """The tower that timm calls `name`, with or without the weights' tag: a row of `VARIANTS` for a Perception Encoder,
    else what timm itself says of it.

    Args:
        image_size: pixels, square; the size it was trained for where None.
        pool: `token` or `avg` in place of timm's own choice (timm averages DINOv3's patches, its authors take the class
            token).

    Raises:
        InputError: no such tower or tag, a part that no rewrite covers, images that are no square, a size that is no
            multiple of the patch.
    """
    if name.startswith("vit_pe_"):
        variant = find_timm(name)
        if pool is not None:
            raise InputError(f"--pool {pool}: {variant.size} is pooled as it was trained, leave it out")
        return variant if image_size is None else resized(variant, image_size)
    if pool not in (None, "token", "avg"):
        raise InputError(f"unknown pool {pool!r}: choose token or avg")
    config, tower = _config(name), _on_meta(name, pool)
    try:
        check_tower(tower)
        for i, block in enumerate(tower.blocks):
            check_block(block, f"blocks.{i}")
    except UnsupportedTowerError as error:
        raise InputError(f"{name} can't be converted: {error}") from error
    height, width = config.input_size[1:]
    tag = f"{config.architecture}.{config.tag}"
    if height != width and image_size is None:
        raise InputError(
            f"{tag} was trained on images of {height} x {width} pixels, and a bundle's are square: choose a size, as "
            f"in --image-size {min(height, width)}"
        )
    head, patch = tower.head, tower.patch_embed.patch_size[0]
    variant = Variant(
        size=tag,
        artefact=f"{tag.replace('.', '_')}{f'_{pool}' if pool else ''}_{height}",
        timm_name=tag,
        open_clip_name="",
        image_size=height,
        patch=patch,
        width=tower.embed_dim,
        depth=len(tower.blocks),
        heads=tower.blocks[0].attn.num_heads,
        mlp_width=tower.blocks[0].mlp.fc2.in_features,
        embedding_dim=head.out_features if isinstance(head, torch.nn.Linear) else 0,
        class_token=tower.cls_token is not None,
        pool_heads=tower.attn_pool.num_heads if tower.attn_pool is not None else 0,
        final_norm=not isinstance(tower.norm, torch.nn.Identity),
        layer_scale=layer_scaled(tower),
        registers=0 if tower.reg_token is None else tower.reg_token.shape[1],
        pool=pool,
        counted=sum(p.numel() for p in tower.parameters()),
    )
    return variant if image_size is None else resized(variant, image_size)


def hub_file(variant: Variant) -> tuple[str, str]:
    """Repository and file that timm has its weights in.

    Raises:
        InputError: none in a form that can be read here.
    """
    config = _config(variant.timm_name)
    if not config.hf_hub_id or config.custom_load:
        raise InputError(f"the hub has no weights of {variant.size} that can be read here: pass --checkpoint FILE")
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors"


def preprocessing(variant: Variant) -> dict[str, Any]:
    """A manifest's `preprocessing`: PE's own, or timm's evaluation transform."""
    if variant.is_pe:
        return dict(PE_PREPROCESSING)
    config = _config(variant.timm_name)
    mode = "squash" if config.crop_mode == "squash" else "crop"
    resize = Resize(mode, config.interpolation, config.crop_pct)
    how = "squashed to" if mode == "squash" else "shorter side resized to, and the centre cropped from,"
    share = "" if config.crop_pct == 1.0 else f", of which the middle {config.crop_pct:g} is kept"
    return {
        "summary": f"RGB, {how} the input's square ({config.interpolation}, antialiased, as Pillow{share}), then to "
        "the range; mean and std are in the graph",
        "resize": resize.name,
        "filter": f"{config.interpolation}, antialiased",
        "crop_pct": config.crop_pct,
        "mean": list(config.mean),
        "std": list(config.std),
    }


def timm_state_dict(variant: Variant, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, in timm's form or the authors' own, under the keys of timm's tower and with positions for
    the variant's image size (`timm`'s `checkpoint_filter_fn`)."""
    with torch.device("meta"):
        tower = create(variant, variant.depth)
    module: Any = import_module(type(tower).__module__)
    return module.checkpoint_filter_fn(dict(tensors), tower)


def create(variant: Variant, depth: int, device: str | torch.device = "cpu") -> Any:
    """timm's tower for a variant that is no PE, untrained, without any download."""
    import timm

    options: dict[str, Any] = {"num_classes": variant.embedding_dim}
    if variant.pool:
        options["global_pool"] = variant.pool
    if depth != len(_on_meta(variant.timm_name).blocks):
        options["depth"] = depth
    with torch.device(device):
        tower = timm.create_model(variant.timm_name, pretrained=False, img_size=variant.image_size, **options)
    return tower.eval().requires_grad_(False)


def _config(name: str) -> Any:
    """timm's configuration of the weights `name`."""
    import timm

    architecture, _, tag = name.partition(".")
    if architecture not in eva_names() and architecture not in vit_names():
        raise InputError(
            f"{architecture!r} is neither of timm's Eva class (`pecore list --all` names its {len(eva_names())}) nor "
            "one of its plain ViTs (`timm.list_models(module='vision_transformer')`)"
        )
    known = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        raise InputError(f"{architecture} has no weights {tag!r}: choose {' or '.join(known)}")
    return timm.get_pretrained_cfg(name)


def _on_meta(name: str, pool: str | None = None) -> Any:
    import timm

    options: dict[str, Any] = {"global_pool": pool} if pool else {}
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **options)
    except AssertionError as error:  # timm's own check
        raise InputError(f"--pool {pool}: {name} has no class token, leave it out") from error


def reduced(name: str, grid: Sequence[int] = (4, 4), widest: int | None = None, **options: Any) -> Any:
    """timm's tower `name` with two blocks, on `grid` patches (down, across), untrained, in eval mode without gradients.

    Where blocks differ (sapiens2 has grouped queries in the middle alone), one of each kind. A tower of more than
    `widest` channels gets a quarter of them, and of its heads. `options` go to `timm.create_model`.
    """
    import timm

    with torch.device("meta"):
        whole: Any = timm.create_model(name, pretrained=False)
    patch, narrow = whole.patch_embed.patch_size, 4 if widest and whole.embed_dim > widest else 1
    kv_heads = dict.fromkeys(b.attn.num_kv_heads for b in whole.blocks if hasattr(b.attn, "num_kv_heads"))
    if kv_heads:
        options |= {"num_kv_heads": [heads // narrow for heads in (*kv_heads, *kv_heads)][:2]}
    if narrow > 1:
        options |= {"embed_dim": whole.embed_dim // narrow, "num_heads": whole.blocks[0].attn.num_heads // narrow}
    size = tuple(side * p for side, p in zip(grid, patch))
    model: Any = timm.create_model(name, pretrained=False, depth=2, img_size=size, **options)
    return model.eval().requires_grad_(False)
