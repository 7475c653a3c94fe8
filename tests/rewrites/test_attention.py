"""The rank-4 attention block, with all that is folded into it, against timm's modules in float64."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import AttentionRope
from timm.models.eva import EvaAttention
from torch import nn

from pecore.rewrites.attention import Attention
from pecore.rewrites.fold import as_linear, from_linear, norm_affine
from pecore.rewrites.tower import branch_out, rotations

EXACT = 1e-10


@pytest.mark.parametrize(("stream", "keep_weight"), [(1 / 32, False), (2.0**-8, True)])
def test_attention_is_timm_s(seen, stream: float, keep_weight: bool) -> None:
    """From the standardised tokens (norm1's affine part folded in) to a centred, scaled addition to the stream."""
    rope = rotations(seen.model, torch.float64)[0]
    for index, block in enumerate(seen.model.blocks):
        norm = block.norm1
        weight, bias = norm_affine(norm)
        assert weight.std() > 0.1
        assert bias.std() > 0.05
        x = F.layer_norm(seen.inputs[f"blocks.{index}.norm1"], norm.normalized_shape, eps=norm.eps)[:, None]
        expected = seen.outputs[f"blocks.{index}.attn"]
        expected = (expected - expected.mean(-1, keepdim=True))[:, None]
        out = as_linear(branch_out(from_linear(block.attn.proj), None, stream), torch.float64)
        ours = Attention(block.attn, norm, rope, out, torch.float64, keep_weight)
        addition = ours(x * weight if keep_weight else x)
        assert (addition / stream - expected).abs().max() <= EXACT
        assert expected.std() > 0.1


def _random(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(6)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return module.double().eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [AttentionRope, EvaAttention])
def test_every_form_of_timm_s_projection(kind: type[nn.Module], fused: bool, bias: bool) -> None:
    """One Linear or three; biases in it, beside it (EVA's q_bias and v_bias), or none."""
    theirs = _random(kind(24, num_heads=3, qkv_fused=fused, qkv_bias=bias, scale_norm=False))
    x = torch.randn(1, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    if kind is EvaAttention and fused and bias:
        assert theirs.qkv.bias is None  # type: ignore[union-attr]
        assert theirs.q_bias is not None
    out = as_linear(branch_out(from_linear(theirs.proj), None, 1.0), torch.float64)  # type: ignore[arg-type]
    ours = Attention(theirs, nn.Identity(), None, out, torch.float64)
    expected = theirs(x)
    assert (ours(x[:, None]) - (expected - expected.mean(-1, keepdim=True))[:, None]).abs().max() <= EXACT


def test_layer_scale_is_folded_into_the_projection() -> None:
    theirs = _random(AttentionRope(24, num_heads=3))
    gamma = torch.linspace(-0.5, 2, 24, dtype=torch.float64)
    out = as_linear(branch_out(from_linear(theirs.proj), gamma, 1 / 32), torch.float64)
    x = torch.randn(1, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected = gamma * theirs(x)
    expected = expected - expected.mean(-1, keepdim=True)
    ours = Attention(theirs, nn.Identity(), None, out, torch.float64)(x[:, None])
    assert (32 * ours - expected[:, None]).abs().max() <= EXACT


def test_no_tensor_has_more_than_four_axes(seen) -> None:
    block = seen.model.blocks[0]
    out = as_linear(branch_out(from_linear(block.attn.proj), None, 1.0), torch.float64)
    ours = Attention(block.attn, block.norm1, rotations(seen.model, torch.float64)[0], out, torch.float64)
    tokens = torch.zeros(1, 1, seen.variant.tokens, seen.variant.width, dtype=torch.float64)
    assert max(_ranks(ours, tokens)) == 4
    assert max(_ranks(block.attn, tokens[0])) == 5  # timm's own


def _ranks(module: nn.Module, x: torch.Tensor) -> list[int]:
    graph = torch.export.export(module, (x,)).graph
    values = [node.meta.get("val") for node in graph.nodes]
    return [value.ndim for value in values if isinstance(value, torch.Tensor)]
