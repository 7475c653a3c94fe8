"""Attention pooling with a constant query, against timm's `AttentionPoolLatent` in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import nn

from pecore.rewrites.fold import norm_affine
from pecore.rewrites.pool import AttentionPool

EXACT = 1e-10


@pytest.mark.parametrize(("scale", "keep_weight"), [(1 / 32, False), (4.0, True)])
def test_pool_is_timm_s(seen, scale: float, keep_weight: bool) -> None:
    """The tower's final norm's affine part is folded in; the pooled row carries `scale`."""
    norm, pool = seen.model.norm, seen.model.attn_pool
    assert pool.num_heads == seen.variant.pool_heads
    assert pool.head_dim == seen.variant.pool_head_dim
    x = F.layer_norm(seen.inputs["norm"], norm.normalized_shape, eps=norm.eps)[:, None]
    ours = AttentionPool(pool, norm, scale, torch.float64, keep_weight)
    pooled = ours(x * norm_affine(norm)[0] if keep_weight else x)
    assert pooled.shape == (1, 1, seen.variant.width)
    expected = seen.outputs["attn_pool"]
    assert (pooled[0] / scale - expected).abs().max() <= EXACT
    assert expected.std() > 0.1
    attention = ours.softmax(ours.scores(x))
    assert attention.std() > 1e-3  # tokens differ in weight: the scores take part


@pytest.mark.parametrize("options", [{"q_proj": False}, {"qkv_bias": False}, {"latent_dim": 16}, {"mlp_ratio": 2.0}])
def test_other_forms_of_timm_s_pool(options: dict) -> None:
    norm_layer = partial(nn.LayerNorm, eps=1e-5)
    generator = torch.Generator().manual_seed(10)
    theirs = AttentionPoolLatent(24, num_heads=4, norm_layer=norm_layer, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    theirs = theirs.double().eval()
    x = torch.randn(1, 9, 24, dtype=torch.float64, generator=generator)
    ours = AttentionPool(theirs, nn.Identity(), 1 / 32, torch.float64)
    assert (32 * ours(x[:, None])[0] - theirs(x)).abs().max() <= EXACT


def test_no_product_has_a_constant_side(seen) -> None:
    """A weight or a table that meets an activation in a matrix product would be a constant operand of BATCH_MATMUL."""
    pool = AttentionPool(seen.model.attn_pool, seen.model.norm, 1.0, torch.float64)
    tokens = torch.zeros(1, 1, seen.variant.tokens, seen.variant.width, dtype=torch.float64)
    program = torch.export.export(pool, (tokens,))
    products = [n for n in program.graph.nodes if n.target == torch.ops.pecore.matmul4d.default]
    assert len(products) == 1
    assert all(source.op == "call_function" or source.name == "x" for source in products[0].args)
