"""timm's towers by name: which there are, and small ones of the same make for tests and measurements."""

from collections.abc import Sequence
from typing import Any

import torch


def eva_names() -> list[str]:
    """Every entry point of timm's Eva class, without the weights' tags."""
    import timm  # takes seconds, and not every verb needs it

    return timm.list_models(module="eva")


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


def spread(model: Any, amplitude: float = 0.0, seed: int = 7) -> Any:
    """The same tower with every parameter moved away from its initial value, as training does, and from the first block
    on massive activations of `amplitude` in four channels."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.empty(p.shape).normal_(generator=generator)
        p.data += noise * (0.2 if p.ndim == 1 else 0.5 * p.shape[-1] ** -0.5)
    if amplitude:
        block = model.blocks[0]
        if getattr(block, "gamma_2", None) is not None:
            block.gamma_2.data[:4] = 1.0
        last = block.norm2 if type(block).__name__ == "EvaBlockPostNorm" else block.mlp.fc2
        last.bias.data[:4] += amplitude
    return model
