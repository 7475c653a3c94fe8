"""Rewrites that take a timm ViT to a phone's GPU.

    from pecore.rewrites import rewrite

    tower = rewrite(timm.create_model("vit_pe_core_base_patch16_224.fb", pretrained=True))

Pure torch, no I/O; docs/rewrites.md has the reasons.
"""

from .output import OUTPUTS, Output
from .tower import PixelRange, Scales, UnsupportedTowerError, rewrite

__all__ = ["OUTPUTS", "Output", "PixelRange", "Scales", "UnsupportedTowerError", "rewrite"]
