"""Gate 1: the rewritten tower against timm's, both in float64. Exactness is not a tolerance: rounding in float64 is all
that is left."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pecore.rewrites.output import Output
from pecore.rewrites.tower import Scales, default_output, mean_free, rewrite, rewrite_parts, rope_table
from pecore.validate.checks import Check

LARGEST_DIFFERENCE = 1e-10

WHOLE_TOWER_PARAMETERS = 400_000_000
"""Above this the towers are compared block by block, one block of each in float64 at a time (L/14, 317 M, still goes
whole: 2.5 GB)."""


def exact_gate(difference: float, subject: str = "tower", original: str = "timm") -> Check:
    """Gate 1's verdict on a `max_difference`."""
    detail = f"max |diff| {difference:.1e} to {original}"
    check = Check("exact", subject, "PyTorch float64", "passed", detail)
    return check.measured({"max_abs_diff": difference}, {"max_abs_diff": LARGEST_DIFFERENCE})


def timm_outputs(model: Any, image: Tensor, output: Output, channels_last: bool = False) -> dict[str, Tensor]:
    """What timm's tower gives for `image` [B, 3, H, W], by the names and in the shapes of the rewritten tower's outputs
    (`rewrites.Output`)."""
    out, depth = {}, len(model.blocks)
    if output.has_features and not output.is_last_block(depth):
        stop_early = not output.has_head
        tokens, (found,) = model.forward_intermediates(image, [output.block(depth)], stop_early=stop_early)
    else:
        tokens, found = model.forward_features(image), None
    if output.has_head:
        embedding = model.forward_head(tokens)
        out[output.names[0]] = embedding if output.kind == "logits" else F.normalize(embedding, dim=-1)
    if found is not None:
        out["features"] = found.permute(0, 2, 3, 1) if channels_last else found
    elif output.has_features:
        out["features"] = _map(model, tokens[:, model.num_prefix_tokens :], channels_last)
    return out


def max_difference(model: Any, scales: Scales, image: Tensor, output: Output | None = None, **form: Any) -> float:
    """Largest |difference| between timm's tower and its rewrite, in float64; of features, which have the size of the
    residual stream, relative to the largest of them where that is above 1.

    Args:
        model: timm's tower, any dtype; not touched.
        image: `[B, 3, H, W]` in [-1, 1].
        scales, output, form (`keep_norm_weights`): as `rewrite` takes them.
    """
    output = output or default_output(model)
    if sum(p.numel() for p in model.parameters()) > WHOLE_TOWER_PARAMETERS:
        return max(block_differences(model, scales, image, output, **form).values())
    with torch.no_grad():
        model = _float64(model)  # first of all: some RoPE tables are computed in the model's own dtype
        theirs = timm_outputs(model, image.double(), output)
        tower = rewrite(model, scales, output=output, dtype=torch.float64, **form)
        ours = _named(tower(image.double()), output)
    return _output_difference(ours, theirs)


@torch.no_grad()
def block_differences(
    model: Any, scales: Scales, image: Tensor, output: Output | None = None, **form: Any
) -> dict[str, float]:
    """The same part by part: stem, every block (each fed what timm's blocks before it made), and the tail, by name."""
    output = output or default_output(model)
    depth, centre, table = len(model.blocks), mean_free(model, output), rope_table(model)
    ropes: Any = [table] * depth if table is None or table.ndim == 2 else table  # one for all blocks, or mixed RoPE
    patches = _float64(model.patch_embed)(image.double())
    patches = patches.flatten(1, 2) if patches.ndim == 4 else patches  # [B, H, W, C] where the image size is dynamic
    theirs = _float64(model.norm_pre)(_embed_positions(model, patches))
    parts = rewrite_parts(model, scales, output=output, dtype=torch.float64, **form)
    _, stem = next(parts)
    found = {"stem": _difference(stem(image.double()) / scales.stream, _stream(theirs, centre))}
    shown = None
    for i, (block, (name, part)) in enumerate(zip(model.blocks[: output.blocks(depth)], parts)):
        ours = part(_stream(theirs, centre) * scales.stream)
        theirs = _float64(block)(theirs, **({} if table is None else {"rope": ropes[i].double()}))
        found[name] = _difference(ours / scales.stream, _stream(theirs, centre))
        if output.has_features and i == output.block(depth):
            shown = theirs
    _, end = next(parts)
    stream = _stream(theirs, centre) * scales.stream
    tapped = None if shown is None or output.is_last_block(depth) else _stream(shown, centre) * scales.stream
    made = _named(end.end(stream, tapped), output)
    expected = {}
    if output.has_head:
        pooled = _float64(model.fc_norm)(_pooled(model, _float64(model.norm)(theirs)))
        embedding = _float64(model.head)(pooled)
        expected[output.names[0]] = embedding if output.kind == "logits" else F.normalize(embedding, dim=-1)
    if shown is not None:
        tokens = _float64(model.norm)(shown) if output.is_last_block(depth) else shown
        expected["features"] = _map(model, tokens[:, model.num_prefix_tokens :])
    found["tail"] = _output_difference(made, expected)
    return found


def _named(out: Tensor | tuple[Tensor, ...], output: Output) -> dict[str, Tensor]:
    return dict(zip(output.names, (out,) if isinstance(out, Tensor) else out, strict=True))


def _map(model: Any, tokens: Tensor, channels_last: bool = False) -> Tensor:
    grid = tokens.reshape(tokens.shape[0], *model.patch_embed.grid_size, -1)
    return grid if channels_last else grid.permute(0, 3, 1, 2)


def _pooled(model: Any, tokens: Tensor) -> Tensor:
    if model.attn_pool is not None:
        return _float64(model.attn_pool)(tokens)
    return model.pool(tokens)


def _float64(module: Any) -> Any:
    return copy.deepcopy(module).double().eval()


def _embed_positions(model: Any, patches: Tensor) -> Tensor:
    tokens = [t.double().expand(len(patches), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
    if model.pos_embed is None:
        return torch.cat([*tokens, patches], 1)
    positions = model.pos_embed.double()
    if model.no_embed_class:
        return torch.cat([*tokens, patches + positions], 1)
    return torch.cat([*tokens, patches], 1) + positions


def _stream(x: Tensor, centre: bool) -> Tensor:
    """timm's residual stream as a rewritten tower has it, but for the scale."""
    return (x - x.mean(-1, keepdim=True) if centre else x)[:, None]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def _output_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest over the outputs, relative where an output's largest element is above 1."""
    return max(_difference(ours[name], value) / max(1.0, float(value.abs().max())) for name, value in theirs.items())
