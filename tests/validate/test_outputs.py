"""Outputs are judged by what is defined for them; and what is wrong fails by it."""

import numpy as np
import pytest

from pecore.runtime import TensorSpec
from pecore.validate.checks import beyond
from pecore.validate.gpu import bit_equal
from pecore.validate.gpu_child import noise
from pecore.validate.outputs import compare_outputs

RNG = np.random.default_rng(3)
INT8 = TensorSpec((1, 64), np.dtype(np.int8), scale=0.02, zero_point=-5)


def missed(expected, got, kind="gpu fp16", precision="fp16", spec=None) -> list[str]:
    """Figures past their threshold, of one output over samples."""
    inputs = [{"x": np.zeros((1, 3), np.float32)}] * len(expected)
    reference, actual = ([{"y": np.asarray(array)} for array in arrays] for arrays in (expected, got))
    found = compare_outputs(kind, precision, inputs, reference, actual, {"y": spec} if spec else None)
    return [text.split()[0] for text in beyond(found.figures, found.thresholds)]


def f32(*values) -> np.ndarray:
    return np.array([values], np.float32)


SOUND = {
    "one element": ([f32(0.75)], [f32(0.7503)]),
    "a score near zero": ([f32(2e-3)], [f32(1.6e-3)]),
    "a score near zero beside a large one": ([f32(0.9), f32(2e-6)], [f32(0.9), f32(1e-6)]),
    "constant": ([f32(5, 5, 5)], [f32(5, 5.001, 5)]),
    "constant but for rounding": ([f32(5, 5.0001, 5)], [f32(5.0001, 5, 5)]),
    "zero": ([f32(0, 0, 0)], [f32(0, 0, 0)]),
    "zero in one sample": ([f32(0, 0), f32(3, 1)], [f32(0, 0), f32(3, 1)]),
    "nothing that fp16 can hold": ([f32(2e-6, 1e-8)], [f32(0, 0)]),
}
WRONG = {
    "one element": ([f32(0.75)], [f32(0.8)]),
    "a score that should be near zero": ([f32(2e-3)], [f32(4e-3)]),
    "of the other sign": ([f32(0.75)], [f32(-0.75)]),
    "constant": ([f32(5, 5, 5)], [f32(5, 6, 5)]),
    "zero": ([f32(0, 0, 0)], [f32(0, 1, 0)]),
    "nothing that fp16 can hold": ([f32(2e-6, 1e-8)], [f32(0, 1)]),
    "not a number": ([f32(0.75)], [f32(np.nan)]),
    "zero in one sample": ([f32(0, 0), f32(3, 1)], [f32(0, 1), f32(3, 1)]),
}


@pytest.mark.parametrize("case", SOUND)
def test_an_output_without_a_direction_is_judged_by_its_relative_difference(case):
    assert missed(*SOUND[case]) == []


@pytest.mark.parametrize("case", WRONG)
def test_an_output_without_a_direction_can_fail(case):
    assert missed(*WRONG[case]) == ["relative_diff"]


@pytest.mark.parametrize(("kind", "precision"), [("cpu", "fp32"), ("cpu", "int8"), ("gpu fp32", "fp16")])
def test_the_tolerance_follows_from_the_precision_s_own(kind, precision):
    """A difference as long as that of two vectors at the least cosine: 4e-5, 4e-2 and 4e-4 of the whole."""
    allowed = {"cpu fp32": 4e-5, "cpu int8": 4e-2, "gpu fp32 fp16": 4e-4}[f"{kind} {precision}"]
    assert missed([f32(1)], [f32(1 + allowed)], kind, precision) == []
    assert missed([f32(1)], [f32(1 + 2 * allowed)], kind, precision) == ["relative_diff"]


def test_a_direction_is_judged_as_before():
    vector = RNG.standard_normal((1, 64)).astype(np.float32)
    assert missed([vector], [vector]) == []
    assert missed([vector], [vector[:, ::-1]]) == ["correlation"]


def test_a_norm_of_1_is_held_to_its_own_limit_and_any_other_to_the_correlation_s():
    """2e-3 for a norm that a graph makes 1 at its end; sqrt(2 (1 - 0.9999)), 1.4 %, for one that carries every op's
    rounding."""
    vector = RNG.standard_normal((1, 64)).astype(np.float32)
    unit = vector / np.linalg.norm(vector)
    assert missed([unit], [unit * np.float32(1.01)]) == ["norm_error"]
    assert missed([vector], [vector * np.float32(1.01)]) == []
    assert missed([vector], [vector * np.float32(1.02)]) == ["norm_error"]
    plain = TensorSpec((1, 64), np.dtype(np.float32))
    assert missed([vector], [vector * np.float32(1.01)], "cpu", "fp32", plain), "nor does the CPU's limit change"
    assert missed([unit], [unit * np.float32(1.01)], "cpu", "int8", plain) == ["norm_error"]


def stored(real: np.ndarray) -> np.ndarray:
    return np.clip(np.round(real / INT8.scale) + INT8.zero_point, -128, 127).astype(np.int8)


def test_quantized_outputs_are_compared_in_real_units():
    real = RNG.uniform(-1, 1, (1, 64)).astype(np.float32)
    assert missed([real], [stored(real)], "cpu", "int8", INT8) == []  # a reference in real units
    assert missed([stored(real)], [stored(real)], "cpu", "int8", INT8) == []  # or stored
    assert missed([stored(real)], [stored(-real)], "cpu", "int8", INT8)
    # As they are stored these two seem alike, at a cosine above 0.999; in real units they have nothing in common.
    around_zero = TensorSpec((1, 64), np.dtype(np.uint8), scale=0.02, zero_point=128)
    one, other = (np.full((1, 64), 128, np.uint8) + RNG.integers(0, 6, (1, 64), np.uint8) for _ in range(2))
    assert missed([one], [other], "cpu", "int8") == []
    assert missed([one], [other], "cpu", "int8", around_zero)


def test_bytes_are_pixels():
    image = RNG.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    nearly = np.where(image < 255, image + 1, image).astype(np.uint8)
    assert missed([image], [nearly]) == []
    assert missed([image], [image[:, ::-1]]) == ["correlation"]


def test_a_step_of_quantization_is_no_error():
    values = RNG.integers(-3, 3, (1, 64)).astype(np.int8)
    next_step = (values + RNG.integers(-1, 2, (1, 64))).astype(np.int8)
    assert missed([values], [next_step], "cpu", "int8", INT8) == []
    assert missed([values], [next_step + np.int8(3)], "cpu", "int8", INT8)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_])
def test_indices_and_decisions_are_counted(dtype):
    chosen = RNG.integers(0, 2, (1, 400)).astype(dtype)
    turned = chosen.copy()
    turned[0, :4] = ~turned[0, :4] if dtype is np.bool_ else turned[0, :4] + 900
    assert missed([chosen], [chosen]) == []
    assert missed([chosen], [turned]) == []  # two scores that rounding puts in the other order
    assert missed([chosen], [1 - chosen if dtype is not np.bool_ else ~chosen]) == ["unequal"]


def test_what_is_no_number_on_the_cpu_either_is_left_out_on_the_gpu():
    cpu, gpu = f32(np.nan, 1, 2, 3), f32(np.nan, 1, 2, 3)
    assert missed([cpu], [gpu]) == []
    assert missed([cpu], [f32(0, 1, 2, 3)])
    assert missed([cpu], [gpu], kind="cpu"), "a reference that is no number passes nothing"


def test_a_second_output_may_be_of_another_kind():
    reference = [{"boxes": f32(1, 2, 3), "count": np.array([7], np.int32)}]
    actual = [{"boxes": f32(1, 2, 3), "count": np.array([9], np.int32)}]
    found = compare_outputs("gpu fp16", "fp16", [{"x": np.zeros((1, 3))}], reference, actual)
    assert beyond(found.figures, found.thresholds) == ["count.unequal 1 (must be <= 0.01)"]


# Noise to run a graph on of which nothing is known


def test_noise_is_drawn_in_the_range_that_an_input_has():
    def spec(dtype, scale=None):
        return TensorSpec((64, 64), np.dtype(dtype), scale=scale)

    image = noise({"image": TensorSpec((1, 3, 64, 64), np.dtype(np.float32))})["image"]
    assert (image.min(), image.max()) == (-1, 1)
    neighbours = np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1]
    assert neighbours > 0.6, "an image's noise is as smooth as one"
    specs = {"float": spec("f4"), "quantized": spec("i1", 0.02), "pixels": spec("u1"), "ids": spec("i8")}
    made = noise(specs | {"mask": spec("?")})
    assert {name: array.dtype for name, array in made.items()} == {n: s.dtype for n, s in specs.items()} | {
        "mask": np.dtype("?")
    }
    assert -1 <= made["float"].min() < -0.9 < 0.9 < made["float"].max() < 1
    assert (made["quantized"].min(), made["quantized"].max()) == (-128, 127)
    assert (made["pixels"].min(), made["pixels"].max()) == (0, 255)
    assert not made["ids"].any()  # the one index that every table has
    assert 0.4 < made["mask"].mean() < 0.6


# Bit-equality is a hint


def test_equal_bits_are_suspicious_only_where_fp16_rounds():
    exact, rounding = [{"y": f32(0.5, 3)}], [{"y": f32(0.5, 0.1)}]
    assert not bit_equal(exact, exact)
    assert bit_equal(rounding, rounding)
    assert not bit_equal([{"y": f32(0.5, np.float16(0.1))}], rounding)
    counts = [{"y": np.array([3], np.int32)}]
    assert not bit_equal(counts, counts)
