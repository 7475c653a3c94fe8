"""Weight algebra, each step against the computation it replaces, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pecore.rewrites.fold import Affine, after_norm, as_linear, centred, from_linear, norm_affine, scaled

EXACT = 1e-12


def _linear(bias: bool = True) -> nn.Linear:
    linear = nn.Linear(8, 6, bias=bias, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    for parameter in linear.parameters():
        nn.init.normal_(parameter, generator=generator)
    return linear


def _norm(affine: bool = True) -> nn.LayerNorm:
    norm = nn.LayerNorm(8, elementwise_affine=affine, dtype=torch.float64)
    if affine:
        nn.init.uniform_(norm.weight, 0.2, 3, generator=torch.Generator().manual_seed(3))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(4))
    return norm


X = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def _apply(affine: Affine, x: torch.Tensor) -> torch.Tensor:
    return as_linear(affine, torch.float64)(x)


@pytest.mark.parametrize("bias", [True, False])
def test_norm_s_affine_part_folds_into_the_linear_behind_it(bias: bool) -> None:
    norm, linear = _norm(), _linear(bias)
    expected = linear(norm(X))
    standardised = F.layer_norm(X, (8,))
    assert (_apply(after_norm(from_linear(linear), norm), standardised) - expected).abs().max() < EXACT
    kept = after_norm(from_linear(linear), norm, keep_weight=True)
    assert (_apply(kept, standardised * norm.weight) - expected).abs().max() < EXACT
    assert torch.equal(kept.weight, linear.weight)


def test_a_norm_without_affine_part_changes_nothing() -> None:
    linear = from_linear(_linear())
    for norm in (_norm(affine=False), nn.Identity()):
        assert all(torch.equal(a, b) for a, b in zip(after_norm(linear, norm), linear))
    weight, bias = norm_affine(nn.LayerNorm(8, bias=False))
    assert torch.equal(weight, torch.ones(8).double())
    assert torch.equal(bias, torch.zeros(8).double())


def test_layer_scale_and_plain_factors() -> None:
    linear = _linear()
    gamma = torch.linspace(-1, 2, 6, dtype=torch.float64)
    for factor in (gamma, 0.25):
        assert (_apply(scaled(from_linear(linear), factor), X) - factor * linear(X)).abs().max() < EXACT


def test_centring_removes_the_mean_over_channels_and_nothing_else() -> None:
    linear = _linear()
    expected = linear(X) - linear(X).mean(-1, keepdim=True)
    assert (_apply(centred(from_linear(linear)), X) - expected).abs().max() < EXACT


def test_cast_once_at_the_end() -> None:
    """Folding in float64 and casting rounds once; folding in float32 rounds at each step."""
    norm, linear = _norm().float(), _linear().float()
    folded = after_norm(from_linear(linear), norm)
    assert folded.weight.dtype == torch.float64
    finished = as_linear(folded, torch.float32)
    assert torch.equal(finished.weight, (linear.weight.double() * norm.weight.double()).float())
    assert not any(p.requires_grad for p in finished.parameters())
    assert as_linear(folded, torch.float32, bias=False).bias is None
