"""The gates' verdicts as a table for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from pecore.console import table

if TYPE_CHECKING:
    from pecore.validate.checks import Check

STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def gates_table(checks: "Sequence[Check]", title: str) -> Table:
    """One row a gate."""
    rows = [(c.gate, c.subject, c.backend, Text(c.outcome, STYLES[c.outcome]), Text(c.detail)) for c in checks]
    return table(title, ("gate", "of", "on", "result", "figure"), rows)
