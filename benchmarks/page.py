"""Put the tables of every topic where docs/benchmarks.md, docs/web.md and README.md keep places for them.

    python -m benchmarks.page       from benchmarks/results and pecore/family.json

A place is `<!-- NAME: made by python -m benchmarks.page -->` up to `<!-- end -->`; the prose around it is written by
hand.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import accuracy, browser, conversion, drawings, gpu, graphs, kernels, latency, readme, results
from benchmarks.section import Section
from pecore.files import write_text

PAGE = results.ROOT / "docs" / "benchmarks.md"
README = results.ROOT / "README.md"
PAGES = (PAGE, README, results.ROOT / "docs" / "web.md")
IMAGE = results.ROOT / "docs" / "images" / "bench_amplitude.png"
COMMAND = "python -m benchmarks.page"
PLACE = re.compile(rf"(<!-- (\w+): made by {re.escape(COMMAND)} -->\n).*?(<!-- end -->)", re.DOTALL)


def machines(contents: results.Contents) -> Section:
    """Where each topic was measured."""
    rows: dict[tuple[str, str], list[str]] = {}
    for topic in (*results.ANYWHERE, *results.PER_CPU):
        found = contents.get(topic, {})
        for kind, content in (found if topic in results.PER_CPU else {"": found}).items():
            if content:
                made = content["environment"]
                versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
                machine = f"{made['cpu']}, {made['cores']} cores, {made['memory_gb']:g} GB"
                rows.setdefault((machine, f"Python {made['python']}, {versions}"), []).append(f"{kind} {topic}".strip())
    listed = [[machine, ", ".join(topics), versions] for (machine, versions), topics in rows.items()]
    return Section(["machine", "topics", "versions"], listed)


SECTIONS: Mapping[str, Callable[[results.Contents], Section]] = {
    "machines": machines,
    **graphs.SECTIONS,
    **kernels.SECTIONS,
    **gpu.SECTIONS,
    **latency.SECTIONS,
    **conversion.SECTIONS,
    **browser.SECTIONS,
    **accuracy.SECTIONS,
    **drawings.SECTIONS,
    **readme.SECTIONS,
}
"""Name of a place -> what makes the table that belongs there."""


def filled(text: str, contents: results.Contents) -> str:
    """A page's `text` with a table in each of its places.

    Raises:
        ValueError: it has a place for an unknown table, or the same one twice.
    """
    places = [name for _, name, _ in PLACE.findall(text)]
    if len(set(places)) < len(places) or not set(places) <= set(SECTIONS):
        raise ValueError(f"there are places for {', '.join(places)}; each of {', '.join(SECTIONS)} can have one")
    return PLACE.sub(lambda place: f"{place[1]}\n{SECTIONS[place[2]](contents).markdown()}\n\n{place[3]}", text)


def write(contents: results.Contents, folder: Path | None = None) -> None:
    """Renew the tables of all pages and the plot; with a `folder`, write docs/benchmarks.md and the plot there."""
    if folder:
        write_text(folder / PAGE.name, filled(PAGE.read_text("utf-8"), contents))
        accuracy.plot(contents, folder / IMAGE.name)
        return
    for page in PAGES:
        write_text(page, filled(page.read_text("utf-8"), contents))
    accuracy.plot(contents, IMAGE)


if __name__ == "__main__":
    write(results.read())
