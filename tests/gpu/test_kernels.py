"""What the delegate launches for T16: more kernels are slower on any GPU, and nothing else here would tell."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.dispatches import Launches, count, parse
from benchmarks.workspace import Workspace
from pecore.errors import InputError
from pecore.variants import find

KERNELS = 65
"""Two blocks at 96 pixels, the image's way in and the embedding's way out included (`python -m benchmarks.kernels`)."""
HEADERS = Path("/usr/include/vulkan/vk_layer.h")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (shutil.which("cc") and HEADERS.exists()), reason="needs a C compiler and libvulkan-dev"),
]


@pytest.fixture(scope="module")
def launches(tmp_path_factory) -> dict[str, Launches]:
    work = Workspace(replace(find("T16"), depth=2, image_size=96), tmp_path_factory.mktemp("kernels"))
    return {name: count(work.file(name)) for name in ("ours-fp16", "published-fp16", "timm")}


def test_two_blocks_launch_no_more_kernels_than_they_need(launches):
    ours, published = launches["ours-fp16"], launches["published-fp16"]
    assert (ours.whole, published.whole) == (True, True)
    assert ours.kernels <= KERNELS
    assert 2 * ours.kernels <= published.kernels
    assert ours.barriers < published.barriers


def test_a_graph_that_is_taken_in_part_is_said_to_be(launches):
    assert not launches["timm"].whole
    assert launches["timm"].kernels > 0


def test_runs_that_differ_are_no_count():
    trace = ["allocate 0x1 100", "run", "dispatch", "run", "dispatch", "dispatch", "end True"]
    with pytest.raises(InputError, match=r"\[1, 2\] kernels"):
        parse(trace)
    assert parse([*trace[:4], "dispatch", "end True"]) == Launches(1, 0, 0, 100, True)
