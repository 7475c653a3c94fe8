"""The ablation's towers, without a GPU: the same function in another form, and what the rules make of the form."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from pecore.cli import main
from pecore.convert.synthetic import synthetic_state_dict
from pecore.convert.tflite_files import write_fp16
from pecore.convert.towers import build_tower
from pecore.errors import InputError
from pecore.image import preprocess
from pecore.rewrites.tower import Scales, rewrite
from pecore.validate import ablation
from pecore.validate.ablation import ablate, cells, choose_rows, markdown, passed
from pecore.validate.ablation_plot import plot
from pecore.validate.ablation_variants import ROWS, ablated
from pecore.variants import find

DOCS = Path(__file__).parents[2] / "docs"
VARIANT = dataclasses.replace(find("T16"), depth=1, image_size=64)
NAMES = [row.name for row in ROWS]
BY_NAME = {row.name: row for row in ROWS}


def build(amplitude: float, depth: int = VARIANT.depth):
    variant = dataclasses.replace(VARIANT, depth=depth)
    return build_tower(variant, synthetic_state_dict(variant, 0, amplitude))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.from_numpy(preprocess(Image.fromarray(skimage.data.astronaut()), VARIANT.image_size))


# Float64 rounds at 1e-16 and the embedding's norm is 1; 1e-12 leaves room for the tower's depth and none for an error.
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_tower_computes_what_timm_computes(name, image):
    model = build(400.0, depth=3)
    gains = {"blocks.0.norm1": 8.0, "blocks.2.norm2": 2.0, "norm": 4.0}
    scales = Scales(stem=1 / 4, stream=1 / 64, gains=gains, pool=1 / 2, head=1 / 8)
    theirs = F.normalize(build(400.0, depth=3).double()(image.double()), dim=-1)
    ours = ablated(BY_NAME[name], model, scales, torch.float64)(image.double())
    assert float((ours - theirs).abs().max()) < 1e-12


def test_rewriting_leaves_timms_tower_alone(image):
    model, fresh = build(400.0), build(400.0).state_dict()
    for row in ROWS:
        ablated(row, model, Scales())
    assert all(torch.equal(value, fresh[key]) for key, value in model.state_dict().items())


@pytest.fixture(scope="module")
def results(image) -> dict:
    """Rows measured without an adapter, as JSON has them, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "probe", lambda: None)
        rows = [r for r in ROWS if r.name not in ("matmul-pool", "norm-published", "l2-normalize")]
        found = ablate(build, write_fp16, [image], [400.0], rows, compared=1, log=lambda name: None)
    return {r.row.name: json.loads(json.dumps(r.as_dict(), allow_nan=False)) for r in found}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("none", set()),
        ("attention", {("rank", "refused")}),
        ("matmul", {("matmul-rank-3", "wrong")}),
        ("transpose", {("matmul-transposed", "wrong")}),
        ("rope", {("rank", "refused")}),
        ("pool", {("rank", "refused"), ("matmul-constant-left", "refused")}),
        ("l2", {("op-unsupported", "refused")}),
        ("timm", {("rank", "refused"), ("matmul-constant-left", "refused"), ("matmul-rank-3", "wrong")}),
    ],
)
def test_rules_name_what_is_wrong_with_a_form(results, name, rules):
    assert rules <= {(f["rule"], f["verdict"]) for f in results[name]["findings"]}
    assert bool(results[name]["findings"]) == bool(rules)


def test_op_counts(results):
    ops = {name: row["ops"] for name, row in results.items()}
    dearer = {"attention", "matmul", "rope", "pool", "norm", "eps", "affine", "timm"}
    assert all(ops[name] > ops["none"] for name in dearer), ops
    # Two LayerNorms in the block and the final one: a RESHAPE each, or MUL and ADD, these for the pool's own too.
    assert ops["eps"] == ops["none"] + 3
    assert ops["projection"] == ops["mean"] == ops["none"]  # at 400 no norm is loud
    assert ops["affine"] == ops["none"] + 2 * 4


def test_without_an_adapter_only_the_delegates_columns_are_empty(results):
    assert {row["verdict"] for row in results.values()} == {None}
    # fp16 weights, at eleven bits each, move a unit-norm embedding this little.
    off = {name: p for name, r in results.items() for p in r["points"] if p["cpu_correlation"] < 0.99999}
    assert not off
    assert max(p["exact"] for r in results.values() for p in r["points"]) < 1e-12
    assert passed([results["none"]])
    assert not passed([results["timm"]])


def test_rows_are_chosen_by_name_and_keep_the_whole_tower_in_front():
    assert [row.name for row in choose_rows(["timm", "norm"])] == ["none", "norm", "timm"]
    assert choose_rows([]) == list(ROWS)
    with pytest.raises(InputError, match=r"layernorm; choose from none, attention"):
        choose_rows(["norm", "layernorm"])


def row(*correlations: float | None, verdict: str = "ran", **changes) -> dict:
    """A row as JSON has it, at amplitude 400, 800, ..."""
    points = [
        {"amplitude": 400.0 * 2**i, "verdict": verdict, "correlation": c, "norm_error": 1e-4, "collapsed": c == 0.25}
        for i, c in enumerate(correlations)
    ]
    about = {"name": "none", "out": "nothing", "ops": 10, "ops_on_gpu": 10, "verdict": verdict, "refused": []}
    return about | {"findings": [], "points": points} | changes


def test_the_whole_tower_must_be_right_at_every_amplitude():
    assert passed([row(0.99999, 0.99999), row(0.25)])
    assert not passed([row(0.99999, 0.998)])
    assert not passed([row(0.99999, None)])
    assert not passed([row(0.99999, findings=[{"rule": "rank", "verdict": "refused", "ops": 1}])])


def test_cells():
    assert cells(row(0.999987, None), [400.0, 800.0])[5:7] == ["0.99999", "NaN"]
    assert cells(row(0.25), [400.0])[5] == "0.25000 †"
    reason = "Tensor dimensions must be less than 5. tower.attn/reshape"
    refused = row(verdict="refused", ops_on_gpu=3, refused=[{"op": "RESHAPE", "reason": reason}])
    assert cells(refused, [400.0])[2:6] == ["3 of 10", "RESHAPE: Tensor dimensions must be less than 5", "", ""]
    assert cells(row(verdict="crashed", ops_on_gpu=None), [400.0])[2:4] == ["", "crashed"]


def test_plot_draws_what_is_not_a_number(tmp_path):
    content = {
        **dict.fromkeys(("variant", "depth", "of", "weights")),
        "amplitudes": [400.0, 800.0],
        "adapter": None,
        "rows": [row(0.99999, 0.99999), row(0.25, None, name="norm")],
    }
    plot(content, tmp_path / "a.png")
    plot(content | {"rows": [row(0.99999, 0.99999), row(0.25, 0.25, name="norm")]}, tmp_path / "b.png")
    first, second = (Image.open(tmp_path / name).convert("RGB").tobytes() for name in ("a.png", "b.png"))
    assert len(first) == len(second)
    assert first != second


def test_the_table_in_the_docs_is_the_tools_own():
    content = json.loads((DOCS / "images/ablation.json").read_text())
    table = markdown(content)
    assert (DOCS / "images/ablation.md").read_text() == table
    assert table in (DOCS / "rewrites.md").read_text()
    assert [r["name"] for r in content["rows"]] == NAMES
    assert passed(content["rows"])


def test_the_docs_snippets_run(image):
    text = (DOCS / "rewrites.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 5
    model = build(400.0)
    for snippet in snippets:
        exec(snippet, {"model": model, "image": image, "torch": torch, "rewrite": rewrite})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--amplitudes", "400,loud"], "--amplitudes '400,loud' is no list of numbers"),
        (["--only", "norms"], "no rewrite is called norms"),
        (["--depth", "13"], "--depth 13: T16 has 12 blocks"),
        (["--save", __file__], "--save"),
    ],
)
def test_bad_arguments_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["ablate", *arguments])
    assert left.value.code == 2
    assert words in capsys.readouterr().err
