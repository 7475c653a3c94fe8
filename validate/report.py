"""What the gates found, for machines: the content of `report.json`."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pecore.validate.checks import Check, failed

VERSIONS_OF = (
    "torch",
    "timm",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "pecore-litert",
)


def versions(names: Sequence[str] = VERSIONS_OF) -> dict[str, str]:
    """The versions of those packages that are installed; unless named, what conversions depend on."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def as_json(checks: Sequence[Check], **about: Any) -> dict[str, Any]:
    """The content of `report.json`: `about` (what was checked), versions, verdict, every gate."""
    verdict = "failed" if failed(checks) else "passed"
    return {"format": 1, **about, "versions": versions(), "verdict": verdict, "gates": [c.as_dict() for c in checks]}
