"""A linear classification head on any pooling of a backbone's features, or on each of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import ImageClassifierOutput

from roadwork.core.errors import ConfigError
from roadwork.models.patch_head import PatchColors, PatchHead

# The head scores each patch, and the photo has the mean score of its highest patches.
TOP_PATCHES = "top_patches"
LINEAR, COLOR = "linear", "color"  # values of `model.patch_head`

# transformers has only the backbone of these model types.
WITHOUT_CLASSIFIER = ("dinov3_vit", "dinov3_convnext")


@dataclass(frozen=True)
class _Family:
    """The features of a model type.

    Attributes:
        own: the pooling of the type's own classifier, or of its `pooler_output` if transformers has no classifier.
        has_class_token: whether the tokens are a class token, then registers, then patches.
    """

    own: str
    has_class_token: bool = True


_CONVOLUTIONS = _Family("mean", has_class_token=False)


_FAMILIES = {
    "vit": _Family("cls"),
    "dinov2": _Family("cls_mean"),
    "dinov2_with_registers": _Family("cls_mean"),
    "dinov3_vit": _Family("cls"),
    "siglip": _Family("mean", has_class_token=False),
    "swin": _CONVOLUTIONS,
    "swinv2": _CONVOLUTIONS,
    "hiera": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "dinov3_convnext": _CONVOLUTIONS,
}


def choose_pooling(config: PreTrainedConfig, pooling: str) -> tuple[str, bool]:
    """The pooling that `model.pooling` selects for a backbone, and whether the backbone's own classifier has it.

    Args:
        config: the backbone's configuration.
        pooling: `auto`, `cls`, `mean`, `cls_mean` or `top_patches`.

    Raises:
        ConfigError: the backbone has no class token, or roadwork does not know its tokens.
    """
    family = _FAMILIES.get(config.model_type)
    if family is None:
        if pooling == "auto":
            return pooling, True
        raise ConfigError(
            f"model.pooling is {pooling!r}, but roadwork does not know the tokens of a {config.model_type}. Allowed "
            f"for it: auto, the pooling of its own classifier. Known types: {', '.join(_FAMILIES)}."
        )
    if pooling in ("auto", family.own):
        return family.own, True
    if not family.has_class_token:
        raise ConfigError(
            f"model.pooling is {pooling!r}, but a {config.model_type} has no class token. Allowed for it: auto, mean; "
            "both are the mean over the image."
        )
    return pooling, False


def pool_tokens(tokens: Tensor, pooling: str, n_registers: int) -> Tensor:
    """Features (B, D), or (B, 2 D) for `cls_mean`, of tokens (B, 1 + n_registers + patches, D), without registers."""
    class_token, patches = tokens[:, 0], tokens[:, 1 + n_registers :]
    if pooling == "cls":
        return class_token
    mean = patches.mean(dim=1)
    return mean if pooling == "mean" else torch.cat([class_token, mean], dim=1)


def top_patch_logits(patch_logits: Tensor, count: int) -> Tensor:
    """Logits (B, 2): the mean over the `count` patches of patch logits (B, P, 2) whose margin for Roadwork is highest.

    A small object covers few patches, and a mean over all of them would lose it. This is multiple-instance learning
    with top-k pooling (Durand, Mordan, Thome and Cord, "WILDCAT", CVPR 2017).
    """
    margins = patch_logits[..., 1] - patch_logits[..., 0]
    highest = margins.topk(min(count, margins.shape[1]), dim=1).indices
    return patch_logits.gather(1, highest[..., None].expand(-1, -1, patch_logits.shape[-1])).mean(dim=1)


class PooledConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """Configuration of a PooledClassifier.

    Attributes:
        vision_config: the backbone's configuration.
        pooling: `cls`, `mean`, `cls_mean` or `top_patches`.
        top_patches: number of patches whose logits are averaged, for the pooling `top_patches`.
        patch_head: `linear` or `color`, for the pooling `top_patches`.
        image_mean: what the images are normalised with, for the patch head `color`.
        image_std: the same.
    """

    model_type = "roadwork_pooled"
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012 -- transformers declares them so

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "cls",
        *,
        top_patches: int = 8,
        patch_head: str = LINEAR,
        image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
        **fields: Any,
    ) -> None:
        if vision_config is None or isinstance(vision_config, dict):
            given = {"model_type": "vit"} | (vision_config or {})
            vision_config = AutoConfig.for_model(**given)
        self.vision_config: PreTrainedConfig = vision_config
        self.pooling = pooling
        self.top_patches = top_patches
        self.patch_head = patch_head
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        super().__init__(**fields)


class PooledClassifier(PreTrainedModel):  # type: ignore[misc]  # as above
    """A linear classifier on the pooled features of a backbone, or the pooled scores of its patches.

    Args:
        config: the backbone's configuration and the pooling.
        backbone: the backbone with its weights; None: one with random weights.
    """

    config_class = PooledConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PooledConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = _build_backbone(config.vision_config) if backbone is None else backbone
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        width = self.backbone.config.hidden_sizes[-1] if self._is_convolutional else self.backbone.config.hidden_size
        self.patch_colors: PatchColors | None = None
        self.classifier: PatchHead | nn.Linear
        if config.pooling == TOP_PATCHES and config.patch_head == COLOR:
            self.patch_colors = PatchColors(self.backbone.config.patch_size, config.image_mean, config.image_std)
            self.classifier = PatchHead(width, config.num_labels)
        else:
            self.classifier = nn.Linear(2 * width if config.pooling == "cls_mean" else width, config.num_labels)
        self.post_init()

    @property
    def _is_convolutional(self) -> bool:
        return bool(self.config.vision_config.model_type == "dinov3_convnext")

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput:
        """Output with `.logits` (B, classes) of normalised images (B, 3, S, S).

        Args:
            pixel_values: the images.
            output_hidden_states: whether the output also has `.hidden_states`.
            return_dict: ignored; transformers' loaders pass it.
        """
        del return_dict
        features = self.backbone(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        if self.config.pooling == TOP_PATCHES:
            patches = self._with_colors(self._patches(features), pixel_values)
            logits = top_patch_logits(self.classifier(patches), self.config.top_patches)
        else:
            logits = self.classifier(self._pool(features))
        return ImageClassifierOutput(logits=logits, hidden_states=features.hidden_states)

    def patch_margins(self, pixel_values: Tensor) -> Tensor:
        """(B, P) margin for Roadwork of each patch, row by row; for the pooling `top_patches`."""
        logits = self.classifier(self.patches(pixel_values))
        margins: Tensor = logits[..., 1] - logits[..., 0]
        return margins

    def patches(self, pixel_values: Tensor) -> Tensor:
        """(B, P, D) tokens of the patches; (B, P, D + N_COLORS) with the patch head `color`."""
        return self._with_colors(self._patches(self.backbone(pixel_values, return_dict=True)), pixel_values)

    @property
    def _n_registers(self) -> int:
        return int(getattr(self.backbone.config, "num_register_tokens", 0))

    def _patches(self, features: Any) -> Tensor:
        """(B, P, D) tokens of the patches, without class token and registers."""
        tokens: Tensor = features.last_hidden_state
        return tokens[:, 1 + self._n_registers :]

    def _with_colors(self, tokens: Tensor, pixel_values: Tensor) -> Tensor:
        if self.patch_colors is None:
            return tokens
        return torch.cat([tokens, self.patch_colors(pixel_values).to(tokens.dtype)], dim=-1)

    def _pool(self, features: Any) -> Tensor:
        if self._is_convolutional:
            pooled: Tensor = features.pooler_output
            return pooled
        return pool_tokens(features.last_hidden_state, self.config.pooling, self._n_registers)


def has_patch_scores(network: nn.Module) -> TypeGuard[PooledClassifier]:
    """Whether the head scores each patch, so that it has no input (B, D) that could be computed once."""
    return isinstance(network, PooledClassifier) and network.config.pooling == TOP_PATCHES


def family_of(config: PreTrainedConfig) -> str:
    """The model type of a network; the backbone's for a PooledClassifier."""
    inner = config.vision_config if isinstance(config, PooledConfig) else config
    return str(inner.model_type)


def with_pooling(network: PreTrainedModel, pooling: str, **options: Any) -> PreTrainedModel:
    """A classifier with this pooling: `network` itself if it has that pooling, else one with a new, random head.

    Args:
        network: a classifier of transformers, a PooledClassifier, or a backbone without a head.
        pooling: a value of `model.pooling`; `auto` returns every classifier unchanged.
        options: further fields of `PooledConfig`, for the pooling `top_patches`.

    Raises:
        ConfigError: the network does not support this pooling.
    """
    if isinstance(network, PooledClassifier):
        is_same = pooling != TOP_PATCHES or network.config.patch_head == options.get("patch_head", LINEAR)
        if pooling in ("auto", network.config.pooling) and is_same:
            if pooling == TOP_PATCHES:  # its weights do not depend on the number
                network.config.top_patches = options.get("top_patches", network.config.top_patches)
            return network
        chosen = choose_pooling(network.backbone.config, pooling)[0]
        return _wrap(network.backbone, chosen, options)
    chosen, is_own = choose_pooling(network.config, pooling)
    if is_own and network.config.model_type not in WITHOUT_CLASSIFIER:
        return network
    return _wrap(_backbone_of(network), chosen, options)


@torch.no_grad()
def as_own_class(network: PreTrainedModel) -> PreTrainedModel:
    """The same function as a class of transformers, if the backbone's own classifier can express it.

    DINOv2's own head is linear in the class token concatenated with the mean of the patches. With zero weights for one
    of them it is a head on the other.

    Args:
        network: any classifier; it is returned unchanged if it is a class of transformers or cannot become one.
    """
    if not isinstance(network, PooledClassifier) or network.config.pooling == TOP_PATCHES:
        return network
    inner = network.backbone.config
    if inner.model_type in WITHOUT_CLASSIFIER or choose_pooling(inner, "auto")[0] != "cls_mean":
        return network
    with torch.device("meta"):  # its weights are replaced below
        own = AutoModelForImageClassification.from_config(inner, dtype=torch.float32)
    name = next(name for name, child in own.named_children() if isinstance(child, PreTrainedModel))
    setattr(own, name, network.backbone)
    head = cast("nn.Linear", network.classifier)
    zeros = torch.zeros_like(head.weight)
    halves = {"cls": (head.weight, zeros), "mean": (zeros, head.weight), "cls_mean": (head.weight,)}
    own.classifier = head
    own.classifier.weight = nn.Parameter(torch.cat(halves[network.config.pooling], dim=1))
    own.classifier.in_features = own.classifier.weight.shape[1]
    return own.train(network.training)


def _wrap(backbone: PreTrainedModel, pooling: str, options: dict[str, Any]) -> PooledClassifier:
    inner = backbone.config
    inner._name_or_path = ""  # noqa: SLF001 -- the folder it was loaded from
    config = PooledConfig(
        vision_config=inner,
        pooling=pooling,
        **options,
        id2label=dict(inner.id2label),
        label2id=dict(inner.label2id),
        problem_type=None,
        dtype=torch.float32,
        attn_implementation=inner._attn_implementation,  # noqa: SLF001 -- else the backbone's is unset
    )
    classifier = PooledClassifier(config, backbone)
    classifier.train(backbone.training)
    return classifier


def _build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    if config.model_type in WITHOUT_CLASSIFIER:
        return AutoModel.from_config(config)
    return _backbone_of(AutoModelForImageClassification.from_config(config))


def _backbone_of(network: PreTrainedModel) -> PreTrainedModel:
    # AutoModel would add a pooler to a ViT, which nothing here would train.
    inner = [child for child in network.children() if isinstance(child, PreTrainedModel)]
    return network if network.config.model_type in WITHOUT_CLASSIFIER else inner[0]
