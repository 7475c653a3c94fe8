"""float32 `.tflite` -> fp16 or int8 weights, through ai-edge-quantizer. Inputs and outputs stay float32."""

from pathlib import Path

from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from pecore.precision import PRECISIONS

LEFT_ALONE = r"Linear_swap"
"""RoPE's channel swap, a 0/1 matrix: as int8 it would make the runtime quantize q and k on the fly, as fp16 it would
cost a DEQUANTIZE, and either saves 16 KB."""


IN_FLOAT = (qtyping.TFLOperationName.CONV_2D,)
"""Ops whose weights `int8` leaves in float32. ViTs have one, the stem: Qualcomm's compiler takes no CONV_2D of float
activations and int8 weights, and would cut the graph in two there (docs/npu.md); it is a few per cent of a small tower
and less of a large one."""


def recipe(precision: str) -> list[dict]:
    """ai-edge-quantizer's recipe for `fp16` (weights cast) or `int8` (weights per channel, activations quantized while
    running)."""
    manager = recipe_manager.RecipeManager()
    algorithm = PRECISIONS[precision].quantization if precision in PRECISIONS else None
    if algorithm == "dynamic_range":
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
        LEFT_ALONE, qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
    )
    return manager.get_quantization_recipe()


def quantize(source: Path, target: Path, precision: str) -> None:
    """Write `source` (float32) with weights in `precision` to `target`."""
    result = quantizer.Quantizer(str(source), recipe(precision)).quantize()
    result.export_model(str(target), overwrite=True)
