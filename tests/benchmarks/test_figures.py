"""What the benchmarks make of their measurements: agreement, tables, the pages."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy, browser, conversion, page, results
from benchmarks.accuracy import agreement, crops, label_set
from benchmarks.conversion import measured
from benchmarks.section import Section, nines, table, transposed
from pecore.errors import InputError

COMMITTED = results.ROOT / "benchmarks" / "results"


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


def test_a_command_is_measured_or_its_last_words_are_kept(tmp_path: Path) -> None:
    good = measured([sys.executable, "-c", "x = bytearray(200_000_000); x[::4096] = x[::4096]"], tmp_path / "a")
    assert good["peak_gb"] > 0.2
    bad = measured([sys.executable, "-c", "raise SystemExit('no such op')"], tmp_path / "b")
    assert bad == {"failed": "exit code 1: no such op"}


def test_a_child_finds_the_benchmarks_wherever_it_runs(tmp_path: Path) -> None:
    assert "seconds" in measured([sys.executable, "-m", "benchmarks.conversion", "--help"], tmp_path)


def test_a_cpu_is_named_with_what_counts(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f\n")
    assert results.cpu(tmp_path / "cpuinfo") == ("Some CPU @ 2 GHz", ["AVX2", "AVX-512"])
    assert results.cpu(tmp_path / "none")[0]


@pytest.mark.parametrize(
    ("name", "extensions", "kind"),
    [
        ("Intel(R) Xeon(R) Processor", ["AVX2", "AVX-VNNI", "AVX-512", "VNNI", "AMX"], "xeon-amx"),
        ("AMD EPYC 9B45 128-Core Processor", ["AVX2", "AVX-VNNI", "AVX-512", "VNNI"], "epyc-avx512-vnni"),
        ("AMD EPYC 7B13", ["AVX2"], "epyc-avx2"),
        ("13th Gen Intel(R) Core(TM) i5-1340P", ["AVX2", "AVX-VNNI"], "intel-avx2-avxvnni"),
        ("Neoverse-N1", ["dot product"], "neoverse-dotproduct"),
    ],
)
def test_a_kind_of_cpu_has_a_short_name(name: str, extensions: list[str], kind: str) -> None:
    assert results.kind_of_cpu(name, extensions) == kind


def test_committed_results_lie_in_the_folder_of_their_cpu() -> None:
    for topic in results.PER_CPU:
        for kind, content in results.read(COMMITTED)[topic].items():
            name, _, extensions = content["environment"]["cpu"].removesuffix(")").rpartition(" (")
            assert results.kind_of_cpu(name, extensions.split(", ")) == kind


def test_results_say_where_they_were_measured_and_nan_is_none(tmp_path: Path) -> None:
    results.write("graphs", {"x": float("nan")}, tmp_path)
    results.write("latency", {"x": 1}, tmp_path)
    contents = results.read(tmp_path)
    assert contents["graphs"]["x"] is None
    assert contents["graphs"]["environment"]["versions"]["torch"]
    assert contents["latency"] == {results.kind_of_cpu(*results.cpu()): {"environment": results.environment(), "x": 1}}
    assert "conversion" not in contents


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9, "0.9000"), (0.99998, "0.99998"), (0.999997, "0.999997"), (1.0, "1.000000000"), (None, "NaN")],
)
def test_a_cosine_has_the_digits_that_tell_it_from_one(value: float | None, text: str) -> None:
    assert nines(value) == text


def test_a_table_refuses_a_row_of_another_length() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="2 columns"):
        table(["a", "b"], [["1"]])


def test_columns_become_rows_without_the_empty_ones() -> None:
    headings, rows = transposed([["", "x", "y"], ["a", "1", ""], ["b", "", ""]])
    assert Section(headings, rows, ["A note."]).markdown() == f"{table(['', 'a', 'b'], [['x', '1', '']])}\n\nA note."


SPREAD = {"median": 0.9, "low": 0.85, "high": 1.0}
ENVIRONMENT = {"cpu": "Some CPU (AVX2)", "cores": 2, "memory_gb": 8.0, "python": "3.11", "versions": {"torch": "2"}}


def some_results(folder: Path) -> Path:
    """Results of three topics, one of them of two kinds of CPU that were measured against different bases."""
    facts = {"ops": 10, "tensors": 20, "bytes": 3_000_000, "macs": 4_000_000_000, "findings": {"rank": 2}}
    put(folder / "graphs.json", {"size": "T16", "graphs": {"timm": facts}})

    def row(ratio: float, cosine: float) -> dict[str, Any]:
        ratios = {key: ratio * value / SPREAD["median"] for key, value in SPREAD.items()}
        return {"ratio": ratios, "ms": SPREAD, "cosine": cosine}

    rows = {
        "ours-fp16": row(0.8, 0.9999),
        "ours-int8": row(0.2, 0.99),
        "eager": row(1.0, 1.0),
    }
    halved = {name: row(given["ratio"]["median"] / 2, given["cosine"]) for name, given in rows.items()}
    slow = rows | {"ours-int8": row(0.79, 0.98)}
    alone = {"ours-fp16": {"first_to_warm": SPREAD, "first_ms": SPREAD, "very_first_ms": SPREAD, "added_mb": 12.0}}
    for kind, base, given in (("new-cpu", "eager", slow), ("old-cpu", "published", halved)):
        threads = {"2": {"rows": given, "left_out": {"openvino": "openvino is not installed"}}}
        content = {"size": "T16", "rounds": 3, "base": base, "threads": threads, "repeats": 3, "alone": alone}
        put(folder / kind / "latency.json", content)
    sizes = {"T16": {"lightweight": {"seconds": 12.3, "peak_gb": 1.5}, "plain": {"failed": "exit code 1: no such op"}}}
    put(folder / "old-cpu" / "conversion.json", {"sizes": sizes})
    return folder


def put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": ENVIRONMENT, **content}))


def test_kinds_of_cpu_stand_side_by_side(tmp_path: Path) -> None:
    contents = results.read(some_results(tmp_path))
    latency = page.SECTIONS["latency"](contents).markdown()
    assert (
        "| runs on the CPU | new-cpu, 2 threads | new-cpu, cosine | old-cpu, 2 threads | old-cpu, cosine |" in latency
    )
    assert "| LiteRT, ours, fp16 | 0.80 (0.76 to 0.89) | 0.9999 | 0.80 | 0.9999 |" in latency
    assert "OpenVINO, timm's tower, fp32 (openvino is not installed)" in latency
    loading = "0.9 (0.8 to 1.0) | 1 (1 to 1) | 12"
    first = page.SECTIONS["first_embedding"](contents).markdown()
    assert f"| LiteRT, ours, fp16 | {loading} | {loading} |" in first
    speed = page.SECTIONS["speed"](contents).markdown()
    assert "| LiteRT, ours, int8 | 0.79 | 0.20 |" in speed
    assert "new-cpu (Some CPU (AVX2)): take **fp16**; int8 takes 0.99 of fp16's time with 2 threads." in speed
    assert "old-cpu (Some CPU (AVX2)): take **int8**; int8 takes 0.25 of fp16's time with 2 threads." in speed


def test_topics_make_their_tables(tmp_path: Path) -> None:
    contents = results.read(some_results(tmp_path))
    graphs = page.SECTIONS["graphs"](contents).markdown()
    assert "| timm's tower as it is | 10 | 20 | 3.0 | 4.00 | rank (2) |" in graphs
    made = conversion.conversion(contents)
    assert list(made.rows) == [("T16", "ours", "12", "1.5")]
    assert list(made.notes) == [
        "T16 by ours, without lightweight conversion failed on old-cpu: exit code 1: no such op"
    ]
    machines = page.SECTIONS["machines"](contents)
    assert list(machines.rows) == [
        [
            "Some CPU (AVX2), 2 cores, 8 GB",
            "graphs, new-cpu latency, old-cpu latency, old-cpu conversion",
            "Python 3.11, torch 2",
        ]
    ]


def test_the_browser_stands_beside_the_native_runtime(tmp_path: Path) -> None:
    row = {"browser_ms": {"median": 900, "low": 850, "high": 1000}, "native_ms": SPREAD, "ratio": SPREAD, "cosine": 1.0}
    row["over_base"] = SPREAD
    sizes = {"T16": {"threads": {"threads": 2, "build": "x.wasm", "browser": "156", "rows": {"fp16": row}}}}
    put(tmp_path / "some-cpu" / "browser.json", {"rounds": 3, "litertjs": "2.5.3", "load": 1.5, "sizes": sizes})
    made = browser.browser(results.read(tmp_path))
    assert list(made.rows) == [
        [
            "some-cpu",
            "T16, fp16, weights made float32 at loading",
            "2",
            "900 (850 to 1000)",
            "1 (1 to 1)",
            "0.9 (0.8 to 1.0)",
            "0.90 (0.85 to 1.00)",
            "1.000000000",
        ]
    ]
    assert "Chromium 156, `@litertjs/core` 2.5.3; 3 rounds" in made.notes[0]


def test_a_browser_that_does_not_start_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make web"), browser.Browser(tmp_path / "not there", "threads") as none:
        none.ask("open", "x.tflite")


def test_a_plot_shows_a_lost_form_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    points = [{"amplitude": 0.0, "correlation": 0.999}, {"amplitude": 400.0, "correlation": None}]
    sweep = {"size": "T16", "depth": 1, "amplitudes": [0.0, 400.0], "forms": [{"name": "norm", "points": points}]}
    for name in ("a", "b"):
        accuracy.plot({"accuracy": {"sweep": sweep}}, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    points[1]["correlation"] = 0.0
    accuracy.plot({"accuracy": {"sweep": sweep}}, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: path.name)
def test_committed_results_make_the_tables_of_a_page(path: Path) -> None:
    text = path.read_text("utf-8")
    assert page.filled(text, results.read(COMMITTED)) == text, f"run {page.COMMAND}"


def test_every_table_has_its_place_on_one_page() -> None:
    places = [name for path in page.PAGES for _, name, _ in page.PLACE.findall(path.read_text("utf-8"))]
    assert sorted(places) == sorted(page.SECTIONS)


def test_a_figure_that_was_changed_by_hand_is_put_right() -> None:
    text = page.README.read_text("utf-8")
    wrong = text.replace("| ops | 9", "| ops | 8", 1)
    assert wrong != text
    assert page.filled(wrong, results.read(COMMITTED)) == text


@pytest.mark.parametrize(("name", "other"), [("speed", "lost"), ("speed", "sizes")])
def test_a_place_that_is_unknown_or_there_twice_is_refused(name: str, other: str) -> None:
    text = page.README.read_text("utf-8").replace(f"<!-- {name}:", f"<!-- {other}:")
    with pytest.raises(ValueError, match="there are places for"):
        page.filled(text, results.read(COMMITTED))
