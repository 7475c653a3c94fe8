"""Half rotation with baked channel order, against timm's own interleaved rotation, for every size's head dimension."""

import torch
from timm.layers import apply_rot_embed_cat

from pecore.rewrites.rope import HalfRotation, bake, half_split
from pecore.rewrites.tower import rotations

EXACT = 1e-10


def _queries_and_keys(seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Block 0's q and k as timm's projection makes them, `[1, H, N, d]`, channels in timm's order."""
    qkv = seen.outputs["blocks.0.attn.qkv"]
    q, k, _ = qkv.reshape(1, qkv.shape[1], 3, seen.variant.heads, -1).permute(2, 0, 3, 1, 4)
    return q, k


def _timm(seen, x: torch.Tensor) -> torch.Tensor:
    prefix = seen.model.num_prefix_tokens
    table = seen.model.rope.get_embed()
    return torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], table)], 2)


def test_rotates_as_timm_does(seen) -> None:
    rope = rotations(seen.model, torch.float64)[0]
    assert rope is not None
    order = half_split(seen.variant.head_dim)
    q, k = _queries_and_keys(seen)
    for x in (q, k):
        expected = _timm(seen, x)[..., order]
        assert (rope(x[..., order]) - expected).abs().max() <= EXACT
        assert (expected - x[..., order]).abs().max() > 0.1  # it is a rotation, not the identity


def test_attention_scores_are_timm_s(seen) -> None:
    """Baking permutes q and k alike, which their inner product does not see."""
    rope = rotations(seen.model, torch.float64)[0]
    assert rope is not None
    heads = seen.variant.heads
    q, k = _queries_and_keys(seen)
    expected = _timm(seen, q) @ _timm(seen, k).transpose(2, 3)

    def baked(x: torch.Tensor) -> torch.Tensor:
        rows = x[0].permute(0, 2, 1).flatten(0, 1)  # [H * d, N]: as the rows of a projection
        return bake(rows, heads).reshape(heads, -1, x.shape[2]).permute(0, 2, 1)[None]

    scores = rope(baked(q)) @ rope(baked(k)).transpose(2, 3)
    assert (scores - expected).abs().max() <= EXACT


def test_class_token_is_not_rotated(seen) -> None:
    rope = rotations(seen.model, torch.float64)[0]
    assert rope is not None
    prefix = seen.model.num_prefix_tokens
    assert prefix == int(seen.variant.class_token)
    x = _queries_and_keys(seen)[0]
    assert torch.equal(rope(x)[:, :, :prefix], x[:, :, :prefix])  # times 1, plus 0: nothing is rounded
    assert rope.cos.shape == (1, 1, seen.variant.tokens, seen.variant.head_dim)


def test_several_prefix_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    sin, cos, x = (torch.randn(n, 8, generator=generator) for n in (9, 9, 12))
    x = x[None, None]
    out = HalfRotation(sin, cos, prefix=3)(x)
    assert torch.equal(out[:, :, :3], x[:, :, :3])
    rotated = HalfRotation(sin, cos, prefix=0)(x[:, :, 3:])
    assert (out[:, :, 3:] - rotated).abs().max() < 1e-6  # float32, of values around 1


def test_bake_reorders_within_each_head() -> None:
    rows = torch.arange(12)
    assert bake(rows, heads=2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    weight = torch.arange(24).reshape(12, 2)
    assert torch.equal(bake(weight, heads=2)[:, 0], bake(weight[:, 0], heads=2))
