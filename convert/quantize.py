"""float32 `.tflite` -> fp16, int8 or a16w8, through ai-edge-quantizer. Inputs and outputs stay float32."""

from collections.abc import Sequence
from pathlib import Path

from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from pecore.convert.ranges import calibrate, fit_biases, with_headroom
from pecore.precision import PRECISIONS
from pecore.runtime import Arrays
from pecore.validate.graph import read_graph

LEFT_ALONE = r"Linear_swap"
"""RoPE's channel swap, a 0/1 matrix: as int8 it would make the runtime quantize q and k on the fly, as fp16 it would
cost a DEQUANTIZE, and either saves 16 KB."""


IN_FLOAT = (qtyping.TFLOperationName.CONV_2D,)
"""Ops whose weights `int8` leaves in float32. ViTs have one, the stem: Qualcomm's compiler takes no CONV_2D of float
activations and int8 weights, and would cut the graph in two there (docs/npu.md); it is a few per cent of a small tower
and less of a large one."""

NORMS = r".*rewrites\.norm\..*"
"""What `a16w8` leaves in float: LayerNorms and the L2 normalisation, by their modules' name in those of the tensors.
LiteRT's int16 RSQRT is too coarse for the variance of quiet tokens: a trained tower's cosine was 0.97 (docs/npu.md)."""

HEADROOM = 4.0
"""How far beyond what was seen the ranges of `a16w8` go. Of int16's 15 bits that costs two, which nothing misses, and a
picture unlike all that the ranges are from is clipped without it: cosine 0.98 (docs/npu.md)."""


def recipe(precision: str) -> list[dict]:
    """ai-edge-quantizer's recipe for `fp16` (weights cast), `int8` (weights per channel, activations quantized while
    running) or `a16w8` (weights per channel, activations in int16, with ranges that are known before)."""
    manager = recipe_manager.RecipeManager()
    algorithm = PRECISIONS[precision].quantization if precision in PRECISIONS else None
    if algorithm == "static":
        manager.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 16, 8)
        for op in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            manager.add_quantization_config(".*", op, algorithm_key=AlgorithmName.NO_QUANTIZE)
    elif algorithm == "dynamic_range":
        manager.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=8)
        for op in IN_FLOAT:
            manager.add_quantization_config(".*", op, algorithm_key=AlgorithmName.NO_QUANTIZE)
    elif algorithm == "float_casting":
        weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        manager.add_quantization_config(
            ".*",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT
            ),
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    else:
        raise ValueError(f"{precision!r} is no precision that a float32 file can be quantized to")
    manager.add_quantization_config(
        NORMS if algorithm == "static" else LEFT_ALONE,
        qtyping.TFLOperationName.ALL_SUPPORTED,
        algorithm_key=AlgorithmName.NO_QUANTIZE,
    )
    return manager.get_quantization_recipe()


def quantize(source: Path, target: Path, precision: str, samples: Sequence[Arrays] = ()) -> None:
    """Write `source` (float32) with weights in `precision` to `target`.

    Args:
        samples: inputs by name that a precision with integer activations takes their ranges from.
    """
    made = quantizer.Quantizer(str(source), recipe(precision))
    ranges = None
    if made.need_calibration:
        if not samples:
            raise ValueError(f"{precision} needs samples to take the ranges of activations from")
        graph = read_graph(source)
        ranges = fit_biases(graph, with_headroom(calibrate(made, samples), HEADROOM))
    made.quantize(ranges).export_model(str(target), overwrite=True)
