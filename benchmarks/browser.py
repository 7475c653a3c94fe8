"""The page's worker on WASM in Chromium against the native runtime, in turn, with the same number of threads.

    python -m benchmarks.browser --sizes T16 S16 B16 --rounds 7

Needs Chromium and the page's packages: `make web` brings both, or `npm ci && npm run vendor` in web_demo/.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.latency import photograph
from benchmarks.section import Section, nines, quartiles
from benchmarks.workspace import Workspace
from pecore.console import progress
from pecore.errors import InputError
from pecore.runtime import open_model
from pecore.timing import WARM, ratio, spread
from pecore.validate.parity import compare
from pecore.variants import find

WEB = results.ROOT / "web_demo"
IMAGE = "image.f32"
SIZES = ("T16", "S16", "B16")
MISSING = "web_demo/bench.js does not run here: run `make web` once, which brings Chromium, Node.js and its packages"
CONTEXTS = ("threads", "alone")
"""A page that is cross-origin isolated and has a thread per core, and one that is not and has one."""

FILES: Mapping[str, tuple[str, str]] = {
    "fp32": ("ours-fp32", "fp32"),
    "fp16-as-is": ("ours-fp16", "fp16, weights left as they are"),
    "fp16": ("ours-fp16", "fp16, weights made float32 at loading"),
    "int8": ("ours-int8", "int8"),
}
"""What the browser runs -> graph of the workspace, what the table calls it."""


BASE = "fp16"
"""What the other files' times in the browser are compared with."""


class Browser(AbstractContextManager["Browser"]):
    """`web_demo/bench.js`: Chromium with the page's worker, and files of one folder."""

    def __init__(self, folder: Path, context: str) -> None:
        command = ["node", "bench.js", str(folder.resolve()), context]
        try:
            self._child = subprocess.Popen(command, cwd=WEB, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError as error:
            raise InputError(MISSING) from error

    def ask(self, task: str, name: str) -> dict[str, Any]:
        """The answer to a request, as bench.js describes both.

        Raises:
            InputError: bench.js has ended, as it does without Chromium or the page's packages, or can't run the file.
        """
        assert self._child.stdin
        assert self._child.stdout
        try:
            print(json.dumps({task: name}), file=self._child.stdin, flush=True)
            answer = json.loads(self._child.stdout.readline() or "{}")
        except BrokenPipeError:
            answer = {}
        if not answer:
            raise InputError(MISSING)
        if "error" in answer:
            raise InputError(f"{name} fails in the browser: {answer['error']}")
        return answer

    def __exit__(self, *_: object) -> None:
        self._child.communicate()  # closes its input, which ends it


def measure(size: str, context: str, rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Milliseconds of each of `FILES` in the browser and natively, their ratio round by round, that to `BASE` in the
    browser, and the cosine of both outputs; threads, and which build of LiteRT.js ran."""
    work = Workspace(find(size))
    image = photograph(work)
    image.tofile(work.folder / IMAGE)
    paths = {name: work.file(graph) for name, (graph, _) in FILES.items()}
    asked = {name: f"as-is/{path.name}" if name == "fp16-as-is" else path.name for name, path in paths.items()}
    with Browser(work.folder, context) as browser:
        about = {}
        for name in FILES:
            log(f"{size}, {context}: loading {name} in the browser")
            about = browser.ask("open", asked[name])
        natives = {graph: open_model(work.file(graph), threads=about["threads"]) for graph, _ in FILES.values()}
        times: dict[str, dict[str, list[float]]] = {name: {"browser": [], "native": []} for name in FILES}
        cosines = {}
        for index in range(WARM + rounds):
            log(f"{size}, {context}: round {index + 1} of {WARM + rounds}")
            for name in list(FILES)[:: -1 if index % 2 else 1]:
                start = time.perf_counter()
                (native,) = natives[FILES[name][0]].run({"image": image}).values()
                native_ms = 1000 * (time.perf_counter() - start)
                answer = browser.ask("run", asked[name])
                cosines[name] = compare([native], [np.float32(answer["output"]).reshape(native.shape)]).cosine
                if index >= WARM:
                    times[name]["native"].append(native_ms)
                    times[name]["browser"].append(answer["ms"])
    rows = {
        name: {
            "browser_ms": vars(spread(took["browser"])),
            "native_ms": vars(spread(took["native"])),
            "ratio": vars(ratio(took["browser"], took["native"])),
            "over_base": vars(ratio(took["browser"], times[BASE]["browser"])),
            "cosine": cosines[name],
        }
        for name, took in times.items()
    }
    return {**about, "rows": rows}


def litertjs_version() -> str:
    lock = json.loads((WEB / "package-lock.json").read_text("utf-8"))
    return lock["packages"]["node_modules/@litertjs/core"]["version"]


def run(sizes: Sequence[str], rounds: int) -> None:
    with progress() as log:
        found = {size: {context: measure(size, context, rounds, log) for context in CONTEXTS} for size in sizes}
    results.write(
        "browser", {"rounds": rounds, "litertjs": litertjs_version(), "load": os.getloadavg()[0], "sizes": found}
    )


def browser(contents: results.Contents) -> Section:
    """A row for each file and size: milliseconds in the browser and over the native runtime's, by threads."""
    rows, notes = [], []
    for kind, content in contents.get("browser", {}).items():
        for size, contexts in content["sizes"].items():
            for found in contexts.values():
                for name, row in found["rows"].items():
                    took = [quartiles(row[key], 0) for key in ("browser_ms", "native_ms")]
                    what = [f"{size}, {FILES[name][1]}", str(found["threads"])]
                    ratios = [quartiles(row["ratio"], 1), quartiles(row["over_base"])]
                    rows.append([kind, *what, *took, *ratios, nines(row["cosine"])])
        chromium = next(iter(next(iter(content["sizes"].values())).values()))["browser"]
        machine = content["environment"]
        notes.append(
            f"{kind}: {machine['cpu']}; Chromium {chromium}, `@litertjs/core` {content['litertjs']}; "
            f"{content['rounds']} rounds; load average {content['load']:.0f} on {machine['cores']} cores."
        )
    times = ["WASM, ms", "native, ms", "WASM / native", "over fp16 on WASM"]
    return Section(["machine", "file", "threads", *times, "cosine of both"], rows, notes)


SECTIONS = {"browser": browser}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    run(options.sizes, options.rounds)


if __name__ == "__main__":
    main()
