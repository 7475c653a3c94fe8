"""CLIP's text tower from token ids to the embedding, in ops that a phone's runtime has.

The walls: open_clip's pooling finds the end-of-text token with an argmax over int64 ids and picks its row by advanced
indexing: an ARG_MAX that does not convert, and GATHER_ND, which ML Drift refuses. The causal mask is -inf, which fp16
arithmetic turns into NaN (0 * inf) as soon as something multiplies it. And ML Drift (2.3.0, WebGPU) takes an
EMBEDDING_LOOKUP with an ADD right after it and gives every token the first one's row.

The ways round:

  - ids come in as int32, and one EMBEDDING_LOOKUP of a 1-D index reads the table; positions are added in the shape
    [1, N, 1, C], whose RESHAPE keeps the ADD apart from it;
  - the mask is a constant [1, 1, N, N], added to the scores, with -10000 for -inf;
  - pooling is a product with a 0/1 row: e = (ids == end of text), then relu(e - number of end tokens before) keeps the
    first one only, as argmax does (a prompt can spell `<end_of_text>`). The count is one Linear with a triangular
    matrix, so all of it is one FULLY_CONNECTED with a fused ReLU, and one BATCH_MATMUL;
  - the final LayerNorm works on the pooled token alone.

Exact because: e^-10000 is 0 in every float; a sum with a single 1 among zeros copies a row; LayerNorm is a matter of
each token. The blocks are the vision tower's: the mean-free, scaled residual stream of `norm.py`, the folding of
`fold.py`, the rank-4 attention of `attention.py` without RoPE. Token and position tables are centred and scaled once.
This tower runs on CPUs, where an op costs what a kernel costs on a GPU: none of its norms subtracts anything.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .fold import Affine, after_norm, as_linear, centred, from_linear, norm_affine, scaled
from .matmul import MatMul
from .norm import ScaledLayerNorm
from .tower import Block, Head, Mlp, Scales, UnsupportedTowerError, branch_out

MASKED = -10000.0  # finite in fp16; scores would have to reach thousands before it mattered


class MaskedSoftmax(nn.Module):
    """Softmax over the last axis in which token i sees tokens 0 to i: `[1, H, N, N]` -> the same."""

    mask: Tensor

    def __init__(self, tokens: int, dtype: torch.dtype):
        super().__init__()
        mask = torch.full((tokens, tokens), MASKED, dtype=dtype).triu(1)
        self.register_buffer("mask", mask[None, None])

    def forward(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores + self.mask, -1)


class TextStem(nn.Module):
    """Token ids to the first residual stream: token and position embeddings."""

    positions: Tensor

    def __init__(self, model: Any, scales: Scales, dtype: torch.dtype):
        super().__init__()
        table, positions = (
            Affine(t.detach().double().T, torch.zeros(t.shape[1], dtype=torch.float64))
            for t in (model.token_embedding.weight, model.positional_embedding)
        )
        table, positions = (scaled(centred(t), scales.stream) for t in (table, positions))
        self.lookup = nn.Embedding.from_pretrained(table.weight.T.to(dtype).contiguous())
        self.register_buffer("positions", positions.weight.T[None, :, None].to(dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[1, N]` int32 -> `[1, 1, N, C]`."""
        _, count, _, width = self.positions.shape
        rows = self.lookup(tokens.reshape(count)).reshape(1, count, 1, width)
        return (rows + self.positions).reshape(1, 1, count, width)


class EndPool(nn.Module):
    """The token at the first end-of-text id: `[1, 1, N, C]`, `[1, N]` int32 -> `[1, 1, 1, C]`; zeros where none is."""

    def __init__(self, tokens: int, end: int, dtype: torch.dtype):
        super().__init__()
        self.end = end
        earlier = torch.ones(tokens, tokens, dtype=torch.float64).tril(-1)
        rows = torch.eye(tokens, dtype=torch.float64) - earlier
        self.first = as_linear(Affine(rows, torch.zeros(tokens)), dtype, bias=False)
        self.pick = MatMul()

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        first = F.relu(self.first((tokens == self.end).to(x.dtype)))
        return self.pick(first.reshape(1, 1, 1, x.shape[-2]), x)


class TextTower(nn.Module):
    """Token ids `[1, N]` int32 -> embedding `[1, D]` with L2 norm 1."""

    def __init__(self, stem: nn.Module, blocks: list[Block], pool: nn.Module, norm: nn.Module, head: nn.Module):
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.pool, self.norm, self.head = pool, norm, head

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.stem(tokens)
        for block in self.blocks:
            x = block(x)
        return self.end(x, tokens)

    def end(self, x: Tensor, tokens: Tensor) -> Tensor:
        """The embedding, from the residual stream after the last block."""
        return self.head(self.norm(self.pool(x, tokens)).flatten(1))


def rewrite_text_block(
    model: Any, index: int, scales: Scales, dtype: torch.dtype = torch.float32, keep_norm_weights: bool = False
) -> Block:
    """Block `index` of open_clip's text transformer -> `Block`, causal mask included."""
    block, tokens = model.transformer.resblocks[index], model.context_length
    check_text_block(block, f"transformer.resblocks.{index}")
    attn, mlp = block.attn, block.mlp
    fused = SimpleNamespace(weight=attn.in_proj_weight, bias=attn.in_proj_bias)
    like_timm = SimpleNamespace(num_heads=attn.num_heads, scale=attn.head_dim**-0.5, qkv=fused)
    out = as_linear(branch_out(from_linear(attn.out_proj), None, scales.stream), dtype)
    attention = Attention(like_timm, block.ln_1, None, out, dtype, keep_norm_weights)
    attention.add_module("softmax", MaskedSoftmax(tokens, dtype))
    fc1 = as_linear(after_norm(from_linear(mlp.c_fc), block.ln_2, keep_norm_weights), dtype)
    fc2 = as_linear(branch_out(from_linear(mlp.c_proj), None, scales.stream), dtype)

    def norm(layer: Any, name: str) -> ScaledLayerNorm:
        weight = norm_affine(layer)[0] if keep_norm_weights else None
        gain = scales.gains.get(f"blocks.{index}.{name}", 1.0)
        return ScaledLayerNorm(layer.eps, scales.stream, gain, weight=weight, dtype=dtype)

    return Block(norm(block.ln_1, "norm1"), attention, norm(block.ln_2, "norm2"), Mlp(fc1, nn.GELU(), fc2))


def rewrite_text_tail(
    model: Any, scales: Scales, end: int, dtype: torch.dtype = torch.float32
) -> tuple[EndPool, ScaledLayerNorm, Head]:
    """What follows the blocks: pooling at the id `end`, final norm, projection."""
    norm, projection = model.ln_final, model.text_projection.detach().double().T
    linear = after_norm(Affine(projection, torch.zeros(len(projection), dtype=torch.float64)), norm)
    return (
        EndPool(model.context_length, end, dtype),
        ScaledLayerNorm(norm.eps, scales.stream, scales.gains.get("norm", 1.0), dtype=dtype),
        Head(as_linear(scaled(linear, scales.head), dtype)),
    )


def rewrite_text(
    model: Any, scales: Scales, end: int, dtype: torch.dtype = torch.float32, keep_norm_weights: bool = False
) -> TextTower:
    """Rewrite open_clip's `TextTransformer` as PE-Core has it: causal, pooled at the end-of-text id `end`.

    Folding is done in float64 and cast once to `dtype`; the model itself is not touched. The scales of the
    stream, its norms and the head apply; `keep_norm_weights` is for int8, as `tower.rewrite` says.

    Raises:
        UnsupportedTowerError: a part of the tower that no rewrite covers, by module name.
    """
    (_, stem), *blocks, (_, tail) = rewrite_text_parts(model, scales, end, dtype, keep_norm_weights)
    return TextTower(stem, [block for _, block in blocks], tail.pool, tail.norm, tail.head).eval()


def rewrite_text_parts(
    model: Any, scales: Scales, end: int, dtype: torch.dtype = torch.float32, keep_norm_weights: bool = False
) -> Iterator[tuple[str, Any]]:
    """The parts of `rewrite_text`'s tower, as `tower.rewrite_parts` gives those of a vision tower: each made when it is
    asked for, and last, under "", a `TextTower` whose `end` is the rest."""
    check_text_tower(model)
    yield "stem", TextStem(model, scales, dtype)
    for i in range(len(model.transformer.resblocks)):
        yield f"blocks.{i}", rewrite_text_block(model, i, scales, dtype, keep_norm_weights)
    yield "", TextTower(nn.Identity(), [], *rewrite_text_tail(model, scales, end, dtype)).eval()


def check_text_block(block: Any, name: str) -> None:
    """Raise `UnsupportedTowerError` for a block that is not pre-norm attention + GELU MLP."""
    if type(block).__name__ != "ResidualAttentionBlock" or not isinstance(block.mlp.gelu, nn.GELU):
        raise UnsupportedTowerError(f"{name}: {type(block).__name__} with {block.mlp} has no rewrite")
    if not (isinstance(block.ls_1, nn.Identity) and isinstance(block.ls_2, nn.Identity)):
        raise UnsupportedTowerError(f"{name}: LayerScale in a text tower has no rewrite")


def check_text_tower(model: Any) -> None:
    """Raise `UnsupportedTowerError` for what `rewrite_text` does not cover outside the blocks."""
    for wrong, what in (
        (model.pool_type != "argmax", f"pool_type={model.pool_type!r}"),
        (model.attn_mask is None, "a tower without a causal mask"),
        (model.cls_emb is not None, "a class token"),
        (not isinstance(model.text_projection, nn.Parameter), "a projection with a bias, or none"),
    ):
        if wrong:
            raise UnsupportedTowerError(f"text tower: {what} has no rewrite")
