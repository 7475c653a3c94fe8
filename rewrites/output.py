"""What a tower returns: the embedding, a classifier's logits, the patch tokens as a map, or two of these.

The limitation, for features: the delegate returns one operand instead of the sum where the graph's output is an ADD
that a MEAN reads as well, and every residual ADD is read by a norm. Besides, the residual stream carries a power of two
and has no mean over channels (`norm.py`), which nobody wants to see.

The workaround: a tower that shows its residual stream keeps the mean in it (its norms subtract it themselves, `Output`
decides), and the map is made by ops of its own after the ADD: class token sliced off, the stream's scale divided out
by one MUL (or the final norm's weight and bias applied), RESHAPE, and TRANSPOSE for [B, C, H, W].

Exact because: a power of two rounds nothing. The map has the stream's own size, massive activations included: fp16
holds 65504.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .fold import norm_affine

OUTPUTS = ("embedding", "logits", "features", "both")


@dataclass(frozen=True)
class Output:
    """What a rewritten tower returns.

    kind:
      - `embedding`: the head's output, L2-normalised, `[B, D]`; of a tower without a projection the pooled tokens.
      - `logits`: the head's output as it is, `[B, classes]`: for classifiers.
      - `features`: the patch tokens as a map, `[B, C, H, W]` (input layout nchw) or `[B, H, W, C]` (nhwc); class token
        and registers are dropped.
      - `both`: embedding and features.
    layer: the block (0 is the first, -1 the last) whose output the features are, as timm's `forward_intermediates` has
      them: after the block, no norm. None, and the last block by its number, are what timm's `forward_features` gives:
      with the tower's final norm, where it has one. For features alone the graph ends at that block.
    """

    kind: str = "embedding"
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in OUTPUTS:
            raise ValueError(f"unknown output {self.kind!r}; choose from {', '.join(OUTPUTS)}")
        if self.layer is not None and not self.has_features:
            raise ValueError(f"a layer is chosen for features, and the output is {self.kind}: choose features or both")

    @property
    def has_features(self) -> bool:
        return self.kind in ("features", "both")

    @property
    def has_head(self) -> bool:
        """Pooling and projection are in the graph."""
        return self.kind != "features"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the graph's outputs, in order."""
        return ("embedding", "features") if self.kind == "both" else (self.kind,)

    def block(self, depth: int) -> int:
        """Index, from 0, of the block whose output the features are. ValueError where there is no such block."""
        layer = -1 if self.layer is None else self.layer
        if not -depth <= layer < depth:
            raise ValueError(f"there is no layer {layer}: the tower has {depth} blocks, 0 to {depth - 1}")
        return layer % depth

    def blocks(self, depth: int) -> int:
        """How many of the tower's blocks the graph needs."""
        return depth if self.has_head else self.block(depth) + 1

    def is_last_block(self, depth: int) -> bool:
        """The features are those of the tower's end, its final norm included."""
        return self.has_features and self.block(depth) == depth - 1

    def exposes_residual(self, model: Any) -> bool:
        """Something other than a LayerNorm reads the residual stream, so that its mean over channels has to stay.

        model: timm's tower.
        """
        unnormed = isinstance(model.norm, nn.Identity)
        features = self.has_features and (unnormed or not self.is_last_block(len(model.blocks)))
        return features or (self.has_head and unnormed and isinstance(model.fc_norm, nn.Identity))


class FeatureMap(nn.Module):
    """Patch tokens `[B, 1, N, C]` as a map, `[B, C, H, W]` or `[B, H, W, C]`.

    Args:
        grid: patches (down, across).
        prefix: number of leading tokens (class, registers), dropped.
        norm: timm's LayerNorm whose weight and bias are applied, to standardised tokens; None for the residual stream.
        stream: the scale that the residual stream carries.
        keep_weight: the norm multiplies by its weight already.
        channels_last: `[B, H, W, C]`.
        dtype: of the constants.
    """

    bias: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        grid: tuple[int, int],
        prefix: int,
        norm: Any | None,
        stream: float,
        keep_weight: bool,
        channels_last: bool,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.grid, self.prefix, self.channels_last = grid, prefix, channels_last
        weight, bias = (None, None) if norm is None else norm_affine(norm)
        self.scale = 1 / stream if norm is None else None
        self.register_buffer("weight", None if weight is None or keep_weight else weight.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, self.prefix :] if self.prefix else x
        if self.scale is not None:
            x = x * self.scale
        if self.weight is not None:
            x = x * self.weight
        if self.bias is not None:
            x = x + self.bias
        x = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        return x if self.channels_last else x.permute(0, 3, 1, 2)


class PooledRow(nn.Module):
    """The pooled row as the embedding of a tower without a projection: `[B, C]` -> `[B, C]`, carrying `Scales.head`.

    Args:
        norm: timm's norm whose weight and bias are applied, to a standardised row; Identity for none.
        factor: power of two by which the row is multiplied.
        keep_weight: the norm multiplies by its weight already.
        dtype: of the constants.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: Any, factor: float, keep_weight: bool, dtype: torch.dtype):
        super().__init__()
        plain = isinstance(norm, nn.Identity)
        weight, bias = (None, None) if plain else norm_affine(norm)
        self.factor = factor if weight is None or keep_weight else 1.0
        self.register_buffer("weight", None if weight is None or keep_weight else (weight * factor).to(dtype)[None])
        self.register_buffer("bias", None if bias is None else (bias * factor).to(dtype)[None])

    def forward(self, x: Tensor) -> Tensor:
        if self.factor != 1.0:
            x = x * self.factor
        if self.weight is not None:
            x = x * self.weight
        return x if self.bias is None else x + self.bias
