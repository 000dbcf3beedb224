"""Under which licence a backbone's weights are: of the known ones, or as a folder's model card says."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]  # it ships no types

from roadwork.settings import ModelSettings

UNKNOWN, NO_WEIGHTS = "unknown", "no weights"

# The `license` of each model's card on huggingface.co as it was known in November 2026, not all of them looked up
# again: the card's own text is what binds. Where the authors say another thing elsewhere, both are here.
_APACHE = "Apache 2.0"
_DINOV3 = "DINOv3 License (gated)"  # ai.meta.com/resources/models-and-libraries/dinov3-license
_CONVNEXTV2 = "CC BY-NC (card: Apache 2.0)"  # the first: README of github.com/facebookresearch/ConvNeXt-V2
_HIERA = "CC BY-NC 4.0"
LICENCES = {
    "WinKawaks/vit-small-patch16-224": _APACHE,
    "google/vit-base-patch16-224": _APACHE,
    "google/vit-base-patch16-224-in21k": _APACHE,
    "google/vit-large-patch16-224": _APACHE,
    "facebook/dinov2-small": _APACHE,
    "facebook/dinov2-base": _APACHE,
    "facebook/dinov2-large": _APACHE,
    "facebook/dinov2-giant": _APACHE,
    "facebook/dinov2-with-registers-small": _APACHE,
    "facebook/dinov2-with-registers-base": _APACHE,
    "facebook/dinov2-with-registers-large": _APACHE,
    "facebook/dinov2-with-registers-giant": _APACHE,
    "facebook/dinov3-vits16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-vitb16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-vitl16-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-small-pretrain-lvd1689m": _DINOV3,
    "facebook/dinov3-convnext-base-pretrain-lvd1689m": _DINOV3,
    "google/siglip-base-patch16-224": _APACHE,
    "google/siglip2-base-patch16-224": _APACHE,
    "google/siglip2-large-patch16-256": _APACHE,
    "facebook/convnextv2-tiny-1k-224": _CONVNEXTV2,
    "facebook/convnextv2-tiny-22k-224": _CONVNEXTV2,
    "facebook/convnextv2-base-22k-224": _CONVNEXTV2,
    "facebook/convnextv2-large-22k-224": _CONVNEXTV2,
    "microsoft/resnet-18": _APACHE,
    "microsoft/resnet-50": _APACHE,
    "microsoft/swinv2-tiny-patch4-window8-256": _APACHE,
    "microsoft/swinv2-base-patch4-window8-256": _APACHE,
    "facebook/hiera-tiny-224-in1k-hf": _HIERA,
}


def licence_of(model: ModelSettings) -> str:
    """The licence of the weights that `model` names; `unknown` where nothing here says."""
    if not model.pretrained:
        return NO_WEIGHTS
    folder = Path(model.name)
    return _of_card(folder / "README.md") if folder.is_dir() else LICENCES.get(model.name, UNKNOWN)


def _of_card(card: Path) -> str:
    """`license_name`, else `license`, of the YAML between the first two lines of three dashes."""
    try:
        opening, front_matter, *_ = card.read_text(encoding="utf-8").split("---\n", 2)
        fields = yaml.safe_load(front_matter)
    except (OSError, ValueError, yaml.YAMLError):
        return UNKNOWN
    if opening.strip() or not isinstance(fields, dict):
        return UNKNOWN
    return str(fields.get("license_name") or fields.get("license") or UNKNOWN)
