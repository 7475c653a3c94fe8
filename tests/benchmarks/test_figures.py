"""What the benchmarks make of their measurements: exponents, agreement, tables, the page."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import page, readme, results
from benchmarks.accuracy import agreement, crops, label_set
from benchmarks.conversion import figures, measured
from benchmarks.scaling import exponent


def test_an_exponent_is_that_of_a_power_law_whatever_its_factor() -> None:
    assert exponent([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)
    assert exponent([1, 10], [5, 5]) == pytest.approx(0)


@pytest.mark.parametrize(("xs", "ys"), [([2, 2], [1, 2]), ([1, 2], [0, 1])])
def test_no_exponent_fits_one_place_or_a_time_of_zero(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError, match="no exponent"):
        exponent(xs, ys)


def test_agreement_counts_top_labels_and_never_nan() -> None:
    labels = label_set(8)
    assert np.linalg.norm(labels, axis=1) == pytest.approx(1)
    same, other, lost = labels[3], labels[5], np.full(8, np.nan)
    assert agreement([same] * 4, [same, 2 * same, other, lost], labels) == 0.5


def test_crops_are_the_photographs_and_the_same_cuts_each_time() -> None:
    first, again = list(crops(2)), list(crops(2))
    assert len(first) == 10
    assert [c.size for c in first] == [c.size for c in again]
    assert first[1].tobytes() == again[1].tobytes()
    assert first[1].size[0] == first[1].size[1] < min(first[0].size)


def test_figures_of_nan_are_none() -> None:
    assert figures([np.ones(3)], [np.array([1, np.nan, 1])])["correlation"] is None


def test_a_command_is_measured_or_its_last_words_are_kept(tmp_path: Path) -> None:
    good = measured([sys.executable, "-c", "x = bytearray(200_000_000); x[::4096] = x[::4096]"], tmp_path / "a")
    assert isinstance(good, dict)
    assert good["peak_gb"] > 0.2
    bad = measured([sys.executable, "-c", "raise SystemExit('no such op')"], tmp_path / "b")
    assert bad == "exit code 1: no such op"


def test_a_cpu_is_named_with_what_counts(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f\n")
    assert results.cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz (AVX2, AVX-512)"
    assert results.cpu_model(tmp_path / "none")


def test_results_are_whole_or_as_they_were(tmp_path: Path) -> None:
    results.write("topic", {"x": 1}, tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write("topic", {"x": float("nan")}, tmp_path)
    assert results.read("topic", tmp_path)["x"] == 1
    assert results.read("topic", tmp_path)["environment"]["versions"]["torch"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9, "0.9000"), (0.99998, "0.99998"), (0.999997, "0.999997"), (1.0, "1.000000000"), (None, "NaN")],
)
def test_a_cosine_has_the_digits_that_tell_it_from_one(value: float | None, text: str) -> None:
    assert page.nines(value) == text


def test_a_table_refuses_a_row_of_another_length() -> None:
    assert page.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="2 columns"):
        page.table(["a", "b"], [["1"]])


SPREAD = {"median": 0.9, "low": 0.85, "high": 1.0}


def test_a_page_is_made_of_the_topics_that_were_run(tmp_path: Path) -> None:
    facts = {"ops": 10, "tensors": 20, "bytes": 3_000_000, "macs": 4_000_000_000, "findings": {"rank": 2}}
    results.write("graphs", {"size": "T16", "graphs": {"timm": facts}}, tmp_path)
    row = {"ratio": SPREAD, "to_ours_fp32": SPREAD, "ms": SPREAD, "cosine": 0.9999}
    at_two = {"rows": {"ours-fp32": row}, "left_out": {"openvino": "openvino is not installed"}}
    alone = {"ours-fp32": {"first_to_warm": SPREAD, "first_ms": SPREAD, "very_first_ms": SPREAD, "added_mb": 12.0}}
    content = {"size": "T16", "rounds": 3, "base": "published", "threads": {"2": at_two}, "repeats": 3, "alone": alone}
    results.write("latency", content, tmp_path)
    failed = {"failed": "onnx2tf: exit code 1: no such op"}
    sizes = {"T16": {"lightweight": {"seconds": 12.3, "peak_gb": 1.5}, "onnx2tf": failed}}
    results.write("conversion", {"sizes": sizes, "onnx2tf_version": "1"}, tmp_path)
    page.write(tmp_path, tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| timm's tower as it is | 10 | 20 | 3.0 | 4.00 | rank (2) |" in text
    assert "| LiteRT, ours, fp32 | 0.90 (0.85 to 1.00) | 0.90 | 1 | 0.9999 |" in text
    assert "OpenVINO, timm's tower, fp32 (openvino is not installed)" in text
    assert "| T16 | ours | 12 | 1.5 |" in text
    assert "no such op" in text
    assert "## Accuracy" not in text
    assert results.environment()["cpu"] in text


def test_plots_show_a_lost_form_and_have_the_same_bytes_again(tmp_path: Path) -> None:
    points = [{"amplitude": 0.0, "correlation": 0.999}, {"amplitude": 400.0, "correlation": None}]
    sweep = {"size": "T16", "depth": 1, "amplitudes": [0.0, 400.0], "forms": [{"name": "norm", "points": points}]}
    point = {"label": "1", "x": 1.0, "macs": 10, "ratio": SPREAD}
    row = {"points": [point, {**point, "label": "2", "x": 2.0, "macs": 20}], "fitted": 1.1, "arithmetic": 1.0}
    for name in ("a", "b"):
        page.plot_amplitude(sweep, tmp_path / f"{name}.png")
        page.plot_scaling({"image": row, "batch": row, "variant": row}, tmp_path / f"{name}_scaling.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_scaling.png").read_bytes() == (tmp_path / "b_scaling.png").read_bytes()
    sweep["forms"] = []
    page.plot_amplitude(sweep, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "a.png").read_bytes()


def test_committed_results_make_the_committed_page(tmp_path: Path) -> None:
    root = Path(page.__file__).resolve().parents[1]
    if not (root / page.PAGE).exists():
        pytest.skip("make bench has not been run")
    made = {t: root / results.RESULTS / f"{t}.json" for t in page.SECTIONS}
    contents = {topic: json.loads(path.read_text()) for topic, path in made.items() if path.exists()}
    assert page.page(contents) == (root / page.PAGE).read_text()


def test_committed_results_make_the_figures_in_the_readme() -> None:
    contents = readme.read(readme.README.parent / results.RESULTS)
    text = readme.README.read_text("utf-8")
    assert readme.filled(text, contents) == text, f"run {readme.COMMAND}"


def test_a_figure_in_the_readme_that_was_changed_by_hand_is_put_right() -> None:
    contents = readme.read(readme.README.parent / results.RESULTS)
    text = readme.README.read_text("utf-8")
    wrong = text.replace("- int8 **0.", "- int8 **0.0", 1)
    assert wrong != text
    assert readme.filled(wrong, contents) == text


@pytest.mark.parametrize("place", ["speed", "sizes"])
def test_a_readme_without_a_place_for_its_figures_is_refused(place: str) -> None:
    text = readme.README.read_text("utf-8")
    with pytest.raises(ValueError, match="README has places for"):
        readme.filled(text.replace(f"<!-- {place}:", "<!-- lost:"), {})
