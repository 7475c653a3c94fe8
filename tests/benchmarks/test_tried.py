"""What was tried computes what the tower computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.tried import IDEAS
from convert.synthetic import synthetic_state_dict
from convert.variants import build_tower
from rewrites.tower import rewrite


@pytest.mark.parametrize("name", [name for name, idea in IDEAS.items() if idea.precision == "fp32"])
def test_every_idea_is_exact(name: str, small: Callable[..., Any]) -> None:
    variant, idea = small("B16"), IDEAS[name]
    model = build_tower(variant, synthetic_state_dict(variant), dtype=torch.float64)
    image = torch.linspace(-1, 1, 3 * variant.image_size**2, dtype=torch.float64)
    image = image.reshape(1, 3, variant.image_size, variant.image_size)
    options = idea.rewrite or {}
    changed = idea.change(rewrite(model, dtype=torch.float64, **options))
    given = image.permute(0, 2, 3, 1) if options else image
    with torch.no_grad():
        assert float((changed(given) - rewrite(model, dtype=torch.float64)(image)).abs().max()) < 1e-12
