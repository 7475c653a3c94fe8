"""Scaled LayerNorm and the final L2 norm, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from pecore.rewrites.norm import ScaledLayerNorm, UnitNorm, leaves_mean

EXACT = 1e-10


def _rows(spread: float, channels: int = 192) -> torch.Tensor:
    """`[1, 1, 5, channels]` float64 of this standard deviation, with a mean of its own in each row."""
    z = torch.randn(1, 1, 5, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (z + torch.arange(5.0, dtype=torch.float64).reshape(5, 1)) * spread


@pytest.mark.parametrize("gain", [1.0, 8.0])
@pytest.mark.parametrize("scale", [1.0, 1 / 32, 2.0**-9, 4.0])
@pytest.mark.parametrize("spread", [1e-6, 1e-3, 1.0, 1e4])  # eps of 1e-5: all, most, little, nothing of the variance
def test_equals_layer_norm_with_its_eps(spread: float, scale: float, gain: float) -> None:
    x = _rows(spread)
    expected = F.layer_norm(x, x.shape[-1:], eps=1e-5)
    centred = x - x.mean(-1, keepdim=True)
    ours = ScaledLayerNorm(1e-5, scale, gain, dtype=torch.float64)
    assert (ours(centred * scale) - expected).abs().max() <= EXACT
    uncentred = ScaledLayerNorm(1e-5, scale, gain, centred=False, dtype=torch.float64)
    assert (uncentred(x * scale) - expected).abs().max() <= EXACT
    forgotten = ScaledLayerNorm(0.0, scale, gain, dtype=torch.float64)(centred * scale)
    assert ((forgotten - expected).abs().max() > EXACT) == (spread < 1e4)  # eps does matter where it should


def test_keeps_a_weight_when_told() -> None:
    x = _rows(1.0)
    weight = torch.linspace(-2, 2, x.shape[-1], dtype=torch.float64)
    ours = ScaledLayerNorm(1e-5, 1 / 32, centred=False, weight=weight, dtype=torch.float64)
    assert (ours(x / 32) - F.layer_norm(x, x.shape[-1:], weight, eps=1e-5)).abs().max() <= EXACT


def test_powers_of_two_change_not_one_bit() -> None:
    """Of any kernel's result: it scales each product, sum and root exactly."""
    x = _rows(300.0).float()
    x = x - x.mean(-1, keepdim=True)
    plain = ScaledLayerNorm(0.0)(x)
    for scale in (1 / 32, 2.0**-8, 16.0):
        assert torch.equal(ScaledLayerNorm(0.0, scale)(x * scale), plain)


@pytest.mark.parametrize("value", [0.0, -0.5, 0.3, 3.0, 1 / 33])
@pytest.mark.parametrize("name", ["scale", "gain"])
def test_refuses_what_would_round(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a power of two, not {value}"):
        ScaledLayerNorm(1e-5, **{name: value})


def test_a_loud_norm_of_a_mean_free_stream_puts_no_rounding_on_its_quiet_channels() -> None:
    """In fp16: of massive activations the mean is that of their rounding."""
    x = _rows(1.0)
    x[..., :4] += 20000 * torch.tensor([1.0, -0.93, -0.81, 0.74], dtype=torch.float64)
    x -= x.mean(-1, keepdim=True)
    rounded = x.half().double()
    expected = F.layer_norm(x, x.shape[-1:])
    layer_norm = torch.nn.LayerNorm(x.shape[-1])
    errors = []
    for gain in (0.5, 1.0):
        ours = ScaledLayerNorm(1e-5, 1.0, gain, centred=leaves_mean(layer_norm, gain, mean_free=True))
        errors.append(((ours(rounded) - expected)[..., 4:].norm() / expected[..., 4:].norm()).item())
    assert errors[0] < 1e-3 < 10 * errors[0] < errors[1], errors
    assert not leaves_mean(layer_norm, 0.5, mean_free=False)


def test_sum_of_squares_fits_fp16_where_torch_overflows() -> None:
    """The wall itself, in torch's fp16: mean(d^2) of massive activations is inf, scaled it is right."""
    x = _rows(1.0)
    x[..., :4] += 4000 * torch.tensor([1.0, -0.9, -0.8, 0.7], dtype=torch.float64)
    x -= x.mean(-1, keepdim=True)
    expected = ScaledLayerNorm(1e-5, dtype=torch.float64)(x)
    naive = ScaledLayerNorm(1e-5, dtype=torch.float16)(x.half())
    assert torch.equal(naive, torch.zeros_like(naive))  # rsqrt(inf)
    scaled = ScaledLayerNorm(1e-5, 1 / 32, dtype=torch.float16)((x / 32).half())
    assert (scaled - expected).abs().max() < 0.01  # fp16's step at the largest element, 8, is 0.004


def test_unit_norm() -> None:
    x = _rows(50.0)
    assert (UnitNorm()(x) - F.normalize(x, dim=-1)).abs().max() <= EXACT
    assert torch.equal(UnitNorm()(x * 64), UnitNorm()(x))
