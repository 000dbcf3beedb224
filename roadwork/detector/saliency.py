"""Saliency maps: which parts of a photo raised the score of Roadwork.

A map shows which part of a photo changed the prediction. It does not show why, nor that the prediction is right.
`gradient_map` takes one forward and backward pass. `occlusion_map` takes tens of forward passes, and is more reliable.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from roadwork.core.errors import DataError
from roadwork.metrics.decision import margin
from roadwork.models.classifier import has_patch_scores

OCCLUSION_GRID = 7
_MIN_CELLS = 12
_COLOUR = np.array([255, 32, 0], dtype=np.float32)
_OPACITY = 0.6


def gradient_map(network: nn.Module, pixels: Tensor) -> np.ndarray:
    """(h, w) float32 in [0, 1]: evidence for Roadwork by part of a photo, on the network's own grid.

    **Convolutional networks**: gradient times activation, summed over channels, negative values set to 0 (HiResCAM:
    Draelos and Carin, arXiv:2011.08891). It uses the last feature map with at least 12 x 12 cells. Grad-CAM commonly
    uses the very last one, but its cells see the whole image, so their position can differ from that of the evidence.

    **Transformers**: Grad-CAM (Selvaraju et al., ICCV 2017) of the patch tokens that enter the last block. After this
    block the head may read only the class token, and patches have no gradient. The mean token is subtracted, because 0
    has no meaning for tokens. So the map compares the parts of an image, and always has a maximum. It needs no
    attention weights, so it supports any implementation of attention.

    **`model.pooling=top_patches`**: the scores of the patches themselves, without a gradient.

    The scale is relative to the strongest evidence in either direction, so weak evidence stays weak.

    Args:
        network: a transformers image classifier with two classes, in evaluation mode.
        pixels: (1, 3, S, S) normalised, on the network's device.

    Raises:
        DataError: the network has no feature maps or patch tokens.
    """
    if has_patch_scores(network):
        with torch.inference_mode():
            scores = network.patch_margins(pixels)[0]
        side = math.isqrt(len(scores))
        return _scale(scores.view(side, side))
    with torch.inference_mode(mode=False), torch.enable_grad():
        entry = pixels.detach().clone().requires_grad_()  # keeps the graph if all weights are frozen
        output = network(pixel_values=entry, output_hidden_states=True)
        features = _choose_features(output.hidden_states, type(network).__name__)
        (gradient,) = torch.autograd.grad(output.logits[0, 1] - output.logits[0, 0], features)
    features = features.detach()[0]
    if features.dim() == 3:
        return _scale((gradient[0] * features).sum(dim=0))
    n_patches = _count_patches(len(features), network, pixels.shape[-1])
    patches, weights = features[-n_patches:], gradient[0, -n_patches:].mean(dim=0)  # class and registers come first
    side = math.isqrt(n_patches)
    return _scale(((patches - patches.mean(dim=0)) @ weights).view(side, side))


def occlusion_map(network: Callable[[Tensor], Tensor], pixels: Tensor, grid: int = OCCLUSION_GRID) -> np.ndarray:
    """(grid, grid) float32 in [0, 1]: drop of the Roadwork score when each part of the photo is masked.

    It needs no gradients, so it also supports ONNX. It takes grid² + 1 forward passes (Zeiler and Fergus, Visualizing
    and understanding convolutional networks, ECCV 2014).

    Args:
        network: maps (B, 3, S, S) to logits (B, 2), as `Detector.network` does.
        pixels: (1, 3, S, S) normalised; a masked part gets 0, the mean colour.
        grid: number of parts per side.
    """
    size = pixels.shape[-1]
    edges = torch.linspace(0, size, grid + 1).round().int().tolist()
    pictures = pixels.detach().repeat(grid * grid + 1, 1, 1, 1)
    for part in range(grid * grid):
        row, column = divmod(part, grid)
        pictures[part, :, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = 0
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in torch.split(pictures, grid)]).float()
    margins = margin(logits)
    return _scale((margins[-1] - margins[:-1]).view(grid, grid))


def overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the photo with its saliency map in red.

    Args:
        image: (H, W, 3) uint8 RGB. The map is resized to its aspect ratio.
        saliency: (h, w) in [0, 1].
    """
    height, width = image.shape[:2]
    stretched = Image.fromarray(saliency.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    share = _OPACITY * np.asarray(stretched).clip(0, 1)[..., None]
    mixed: np.ndarray = (image * (1 - share) + _COLOUR * share).round().astype(np.uint8)
    return mixed


def _choose_features(states: tuple[Tensor, ...] | None, name: str) -> Tensor:
    """The last fine enough feature map (1, C, h, w), else the finest; for transformers the last block's (1, n, C)."""
    if states and states[-1].dim() == 4:
        fine = [state for state in states if state.shape[-1] >= _MIN_CELLS]
        return fine[-1] if fine else max(states, key=lambda state: state.shape[-1])
    if states and len(states) > 1 and states[-2].dim() == 3:
        return states[-2]
    raise DataError(f"{name} returns no feature maps or patch tokens, so it has no gradient map. Use occlusion_map.")


def _count_patches(n_tokens: int, network: nn.Module, size: int) -> int:
    """Number of tokens that are patches."""
    config = network.config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    n_cut = (size // patch) ** 2 if isinstance(patch, int) else 0
    # With fewer tokens than patches, patches were merged, as in Swin, which has no other tokens.
    return n_cut if 0 < n_cut <= n_tokens else math.isqrt(n_tokens) ** 2


def _scale(evidence: Tensor) -> np.ndarray:
    strongest = evidence.abs().amax().clamp_min(torch.finfo(evidence.dtype).tiny)
    scaled: np.ndarray = F.relu(evidence / strongest).float().cpu().numpy()
    return scaled
