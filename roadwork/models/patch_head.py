"""A head that scores each patch by its token and by its colours.

Networks such as DINOv2 are trained to ignore changes of colour, so their tokens carry little of it. Here the head also
gets the colours of the patch itself. From each token it gets only the directions in which the tokens of the training
photos differ most: with a few hundred training photos, a head on more directions did worse at unseen cameras.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_COMPONENTS = 32
HIDDEN = 32
N_HUES = 18
HUE_WIDTH_DEG = 20.0  # a pixel counts for the hues that are at most this far from its own
N_COLORS = N_HUES + 2
_CHROMA_GAIN = 4.0
_SMALLEST_SCALE = 1e-3
_SMALLEST_COLOR_SCALE = 0.1  # so that a hue that training hardly showed is not amplified


class PatchColors(nn.Module):
    """The colours of each patch of normalised images: how much of each hue it shows, its brightness and contrast.

    Args:
        patch: side of a patch in pixels.
        mean: of each channel, what the images were normalised with.
        std: the same.
    """

    def __init__(self, patch: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.patch = patch
        self.mean, self.std = mean, std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, P, N_COLORS) of normalised images (B, 3, S, S), patches row by row; they have no gradient."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
            pixels = (images * std + mean).clamp(0, 1)
            red, green, blue = pixels.unbind(dim=1)
            chroma = torch.stack([red - (green + blue) / 2, (green - blue) * (math.sqrt(3) / 2)], dim=1)
            strength = chroma.square().sum(dim=1, keepdim=True).sqrt()
            edge = math.cos(math.radians(HUE_WIDTH_DEG))
            angles = torch.arange(N_HUES, device=images.device) * (2 * math.pi / N_HUES)
            axes = torch.stack([angles.cos(), angles.sin()], dim=1).view(N_HUES, 2, 1, 1)
            along = (F.conv2d(chroma, axes) - strength * edge).clamp(min=0) / (1 - edge)
            hues = F.avg_pool2d(along * strength * _CHROMA_GAIN, self.patch).sqrt()
            grey = pixels.mean(dim=1, keepdim=True)
            brightness = F.avg_pool2d(grey, self.patch)
            contrast = (F.avg_pool2d(grey.square(), self.patch) - brightness.square()).clamp(min=0).sqrt()
            return torch.cat([hues, brightness, contrast], dim=1).flatten(2).transpose(1, 2)


class PatchHead(nn.Module):
    """A small network on the main components of a patch's token and on the patch's colours.

    The components come from `fit_components`; before that, they are the first ones of the token.

    Args:
        width: D, of a token.
        n_classes: number of logits.
    """

    mean: Tensor
    components: Tensor
    color_scale: Tensor
    is_fitted: Tensor

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.width = width
        n_components = min(N_COMPONENTS, width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, n_components))
        self.register_buffer("color_scale", torch.ones(N_COLORS))
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))
        self.hidden = nn.Linear(n_components + N_COLORS, HIDDEN)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(HIDDEN, n_classes)

    def inputs(self, patches: Tensor) -> Tensor:
        """(..., N_COMPONENTS + N_COLORS), of at most about unit variance over the training photos' patches."""
        tokens, colors = patches[..., : self.width], patches[..., self.width :]
        return torch.cat([(tokens - self.mean) @ self.components, colors / self.color_scale], dim=-1)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., classes) of tokens with their colours (..., D + N_COLORS)."""
        return cast("Tensor", self.out(self.dropout(F.gelu(self.hidden(self.inputs(patches))))))

    @torch.no_grad()
    def fit_components(self, patches: Tensor) -> float:
        """Sets the components to the first principal ones of the tokens, scaled to unit variance.

        Args:
            patches: (n, D + N_COLORS) tokens with their colours, more than N_COMPONENTS.

        Returns:
            The share of the tokens' variance that the components keep.
        """
        tokens, colors = patches[:, : self.width].double(), patches[:, self.width :].double()
        mean = tokens.mean(dim=0)
        variances, directions = torch.linalg.eigh((tokens - mean).T.cov())
        kept = slice(-self.components.shape[1], None)
        scales = variances[kept].clamp(min=_SMALLEST_SCALE**2).sqrt()
        self.mean.copy_(mean)
        self.components.copy_(directions[:, kept] / scales)
        self.color_scale.copy_(colors.std(dim=0).clamp(min=_SMALLEST_COLOR_SCALE))
        self.is_fitted.fill_(value=True)
        return float(variances[kept].sum() / variances.clamp(min=0).sum())
