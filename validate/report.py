"""What the gates found, for people (a terminal table) and for machines (`report.json`)."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.table import Table
from rich.text import Text

from validate.gates import Check

STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
VERSIONS_OF = (
    "torch",
    "timm",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "pecore-litert",
)


def versions() -> dict[str, str]:
    """The versions that a conversion's bytes and figures depend on."""
    return {name: version(name) for name in VERSIONS_OF}


def failed(checks: Sequence[Check]) -> list[Check]:
    return [c for c in checks if c.outcome == "failed"]


def as_json(checks: Sequence[Check], **about: Any) -> dict[str, Any]:
    """The content of `report.json`: `about` (what was judged), versions, verdict, every gate."""
    verdict = "failed" if failed(checks) else "passed"
    return {"format": 1, **about, "versions": versions(), "verdict": verdict, "gates": [c.as_dict() for c in checks]}


def table(checks: Sequence[Check], title: str) -> Table:
    """One row a gate."""
    out = Table(title=title, title_justify="left", header_style="bold")
    for column in ("gate", "of", "on", "result"):
        out.add_column(column, overflow="fold")
    out.add_column("figure", overflow="fold", min_width=30)
    for check in checks:
        outcome = Text(check.outcome, style=STYLES[check.outcome])
        out.add_row(check.gate, check.subject, check.backend, outcome, Text(check.detail))
    return out
