"""Every entry point of timm's Eva class, at two blocks, against timm in float64.

The list is timm's own: an entry point that a new timm brings fails here until it is exact, or refused by name.
"""

import pytest
import torch

from pecore.convert.synthetic import fill
from pecore.convert.timm_tower import eva_names, reduced
from pecore.rewrites import Output, Scales
from pecore.validate.exactness import max_difference

EXACT = 1e-10

REFUSED: dict[str, str] = {}
"""Entry point -> the module that `rewrite` names: none today."""

WIDEST = 1024  # channels; wider towers are measured whole by `python -m benchmarks.family --eva`

UNUSUAL = Scales(
    stem=4.0,
    stream=2.0**-7,
    gains={
        "blocks.0.norm2": 16.0,
        "norm": 0.5,
        "blocks.0.attn.qk_norm.norm": 2.0**-7,
        "blocks.1.attn.qk_norm.norm": 8.0,
        "blocks.0.attn.norm": 2.0**-6,
        "blocks.0.mlp.norm": 2.0**-6,
        "blocks.1.mlp.norm": 4.0,
        "blocks.0.attn_norm.norm": 2.0**-8,
        "blocks.1.mlp_norm.norm": 4.0,
    },
    pool=2.0,
    head=0.125,
)


@pytest.mark.parametrize("name", eva_names())
def test_every_entry_point(name: str) -> None:
    """Embedding (the pooled tokens, where the tower has no projection) and the map of patches, registers left out."""
    assert name not in REFUSED
    model = fill(reduced(name, grid=(2, 3), widest=WIDEST))
    image = torch.randn(1, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(12))
    assert max_difference(model, UNUSUAL, image, Output("both")) <= EXACT
