"""The figures of two embeddings' distance, and which failure each of them is blind to."""

import math

import numpy as np
import pytest

from pecore.validate.parity import Parity, compare, worst

RNG = np.random.default_rng(14)
EMBEDDING = RNG.standard_normal((1, 64)).astype(np.float32)
EMBEDDING /= np.linalg.norm(EMBEDDING)


def test_identical() -> None:
    figures = compare([EMBEDDING], [EMBEDDING.copy()])
    assert (figures.cosine, figures.correlation) == (pytest.approx(1, abs=1e-15), pytest.approx(1, abs=1e-15))
    assert (figures.norm_error, figures.max_abs_diff) == (pytest.approx(0, abs=1e-15), 0)


def test_by_hand() -> None:
    figures = compare([np.array([3.0, 4.0])], [np.array([4.0, 3.0])])
    assert figures.cosine == pytest.approx(24 / 25)
    assert figures.correlation == pytest.approx(-1)
    assert figures.norm_error == pytest.approx(0)
    assert figures.max_abs_diff == 1


@pytest.mark.parametrize("factor", [1.34, 0.5, 1e-3])
def test_cosine_and_correlation_are_blind_to_scale(factor: float) -> None:
    """Norms of 1.002 to 1.34 came out of a delegate in fp16 at correlation 0.999996; only the norm shows it."""
    figures = compare([EMBEDDING], [EMBEDDING * factor])
    assert figures.cosine == pytest.approx(1, abs=1e-7)
    assert figures.correlation == pytest.approx(1, abs=1e-7)
    assert figures.norm_error == pytest.approx(abs(factor - 1), rel=1e-4)


def test_correlation_is_blind_to_a_shift_and_cosine_is_not() -> None:
    figures = compare([EMBEDDING], [EMBEDDING + 1])
    assert figures.correlation == pytest.approx(1, abs=1e-6)
    assert figures.cosine < 0.5


def test_relative_difference_is_over_the_largest_element_of_the_reference() -> None:
    """A feature map with massive activations: 2e-3 beside 400 is nothing, whatever the element it is on."""
    features = np.array([0.5, -400.0, 3.0])
    figures = compare([features], [features + np.array([0, 0, 2e-3])])
    assert figures.max_abs_diff == pytest.approx(2e-3)
    assert figures.relative_diff == pytest.approx(5e-6)
    assert math.isnan(compare([np.zeros(3)], [features]).relative_diff)


def test_one_wrong_element_shows_in_max_abs_diff() -> None:
    spoilt = EMBEDDING.copy()
    spoilt[0, 5] += 1e-3
    figures = compare([EMBEDDING], [spoilt])
    assert figures.cosine > 0.999999
    assert figures.max_abs_diff == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_or_inf_anywhere_makes_every_figure_nan(value: float) -> None:
    spoilt = EMBEDDING.copy()
    spoilt[0, 7] = value
    for references, outputs in (([EMBEDDING], [spoilt]), ([EMBEDDING] * 3, [EMBEDDING, spoilt, EMBEDDING])):
        figures = compare(references, outputs)
        assert all(math.isnan(figure) for figure in figures.as_dict().values())


def test_zeros_match_nothing() -> None:
    figures = compare([EMBEDDING], [np.zeros_like(EMBEDDING)])
    assert math.isnan(figures.cosine)
    assert figures.norm_error == 1


def test_worst_of_several() -> None:
    figures = worst([Parity(0.9, 1.0, 0.0, 0.2, 0.3), Parity(1.0, 0.8, 0.1, 0.1, 0.4)])
    assert figures == Parity(0.9, 0.8, 0.1, 0.2, 0.4)
    assert compare([EMBEDDING, EMBEDDING], [EMBEDDING, -EMBEDDING]).cosine == pytest.approx(-1)


def test_computed_in_float64() -> None:
    """In float16 the sum of these squares would be inf."""
    large = np.full(64, 60000, np.float16)
    assert compare([large], [large]).cosine == pytest.approx(1)
    assert compare([large], [large]).norm_error == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("reference", "actual", "message"),
    [
        ([], [], "0 references and 0 outputs"),
        ([EMBEDDING], [], "1 references and 0 outputs"),
        ([EMBEDDING], [EMBEDDING[:, :32]], r"shape \(1, 32\) can't be compared with a reference of shape \(1, 64\)"),
        ([EMBEDDING[:, :0]], [EMBEDDING[:, :0]], r"shape \(1, 0\) can't be compared"),
    ],
)
def test_sizes_that_differ(reference, actual, message) -> None:
    with pytest.raises(ValueError, match=message):
        compare(reference, actual)


def test_layout_of_axes_does_not_matter() -> None:
    figures = compare([EMBEDDING], [EMBEDDING.reshape(64)]).as_dict()
    assert figures == pytest.approx(compare([EMBEDDING], [EMBEDDING]).as_dict(), abs=1e-15)
