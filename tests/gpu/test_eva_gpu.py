"""What other ViTs of timm's have that a Perception Encoder has not, on the real delegate: every op, right in fp16 and
fp32, two blocks, a few patches."""

from pathlib import Path

import pytest
import torch

from pecore.convert.export import export_tflite
from pecore.convert.quantize import quantize
from pecore.convert.synthetic import fill
from pecore.convert.timm_tower import reduced
from pecore.image import preprocess
from pecore.rewrites import Output, rewrite
from pecore.runtime import open_model
from pecore.validate import gates, headroom
from pecore.validate.photographs import photographs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_dinov3_qkvb",  # EUPE: registers, dynamic size
        "eva02_base_patch16_clip_224",  # norms inside SwiGLU and attention
        "eva02_enormous_patch14_clip_224",  # post-norm
        "vit_small_patch16_rope_mixed_224",  # a table per head
        "vit_small_patch14_reg4_dinov2",  # timm's plain ViT: qkv biases, LayerScale, registers
        "vit_large_patch16_sapiens2",  # RMSNorm, norms on q and k, grouped queries
    ],
)
def test_resident_and_right(tmp_path: Path, name: str) -> None:
    model, output = fill(reduced(name, (2, 3), widest=1024), amplitude=400.0), Output("both")
    height, width = model.patch_embed.img_size
    shots = [preprocess(image, max(height, width))[..., :height, :width] for _, image in photographs()]
    images = [torch.from_numpy(shot.copy()) for shot in shots]
    scales, reductions = headroom.fit_scales(model, images, output)
    assert min(r.headroom for r in reductions) >= headroom.ENOUGH
    source, path = tmp_path / "source.tflite", tmp_path / "tower.tflite"
    export_tflite(rewrite(model, scales, output=output), {"image": images[0]}, source, output.names)
    quantize(source, path, "fp16")
    inputs = [{"image": images[0].numpy()}]
    outputs = [open_model(path).run(inputs[0])]
    with torch.no_grad():
        expected = rewrite(model, scales, output=output, dtype=torch.float64)(images[0].double())
    for ours, theirs in zip(outputs[0].values(), expected):
        ours = torch.from_numpy(ours).double().flatten()
        assert torch.nn.functional.cosine_similarity(ours, theirs.flatten(), dim=0) > 0.99999
    assert gates.graph_gate(path, "2.3.0").figures["findings"] == []
    checks = gates.gpu_gates(path, "fp16", inputs, outputs, "require", print)
    assert len(checks) == 2  # fp16 and fp32
    for check in checks:
        assert check.outcome == "passed", check.detail
        assert check.figures["ops_on_gpu"] == check.figures["ops"] > 0
        assert min(v for k, v in check.figures.items() if k.endswith("correlation")) >= 0.9999
