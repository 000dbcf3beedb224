"""A linear head on any pooling of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from roadwork.core.errors import ConfigError

# transformers has these as backbones alone.
WITHOUT_CLASSIFIER = ("dinov3_vit", "dinov3_convnext")


@dataclass(frozen=True)
class _Family:
    """How the networks of a model type are read.

    Attributes:
        own: the pooling of the type's own classifier; where transformers has none, of its `pooler_output`.
        has_class_token: whether the first token is a class token, registers and then patches behind it.
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
    """The pooling that `model.pooling` means for a backbone, and whether it is that of its own classifier.

    Args:
        config: of the backbone.
        pooling: `auto`, `cls`, `mean` or `cls_mean`.

    Raises:
        ConfigError: the backbone has no class token, or roadwork does not know which of its tokens is one.
    """
    family = _FAMILIES.get(config.model_type)
    if family is None:
        if pooling == "auto":
            return pooling, True
        raise ConfigError(
            f"model.pooling is {pooling!r}, but which tokens of a {config.model_type} are patches is not known here; "
            f"allowed for it: auto, what its own classifier does. Known are {', '.join(_FAMILIES)}."
        )
    if pooling in ("auto", family.own):
        return family.own, True
    if not family.has_class_token:
        raise ConfigError(
            f"model.pooling is {pooling!r}, but a {config.model_type} has no class token; allowed for it: auto, mean. "
            "Both are the mean over the picture, as its own classifier takes it."
        )
    return pooling, False


def pool_tokens(tokens: Tensor, pooling: str, n_registers: int) -> Tensor:
    """(B, D) features, (B, 2 D) for `cls_mean`, of tokens (B, 1 + n_registers + patches, D). Registers are left out."""
    class_token, patches = tokens[:, 0], tokens[:, 1 + n_registers :]
    if pooling == "cls":
        return class_token
    mean = patches.mean(dim=1)
    return mean if pooling == "mean" else torch.cat([class_token, mean], dim=1)


class PooledConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """Of a PooledClassifier.

    Attributes:
        vision_config: of the backbone.
        pooling: `cls`, `mean` or `cls_mean`.
    """

    model_type = "roadwork_pooled"
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012 -- transformers' own way to declare them

    def __init__(
        self, vision_config: PreTrainedConfig | dict[str, Any] | None = None, pooling: str = "cls", **fields: Any
    ) -> None:
        if vision_config is None or isinstance(vision_config, dict):
            given = {"model_type": "vit"} | (vision_config or {})
            vision_config = AutoConfig.for_model(**given)
        self.vision_config: PreTrainedConfig = vision_config
        self.pooling = pooling
        super().__init__(**fields)


class PooledClassifier(PreTrainedModel):  # type: ignore[misc]  # as above
    """Features of a backbone, pooled, and a linear layer on them.

    Args:
        config: names the backbone and the pooling.
        backbone: with the weights to use; None: random ones.
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
        self.classifier = nn.Linear(2 * width if config.pooling == "cls_mean" else width, config.num_labels)
        self.post_init()

    @property
    def _is_convolutional(self) -> bool:
        return bool(self.config.vision_config.model_type == "dinov3_convnext")

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput:
        """Gives `.logits` (B, classes) of images (B, 3, S, S), normalised.

        Args:
            pixel_values: the images.
            output_hidden_states: whether `.hidden_states` are wanted too.
            return_dict: is ignored: the answer always is one.
        """
        del return_dict
        seen = self.backbone(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        return ImageClassifierOutput(logits=self.classifier(self._pool(seen)), hidden_states=seen.hidden_states)

    def _pool(self, seen: Any) -> Tensor:
        if self._is_convolutional:
            pooled: Tensor = seen.pooler_output
            return pooled
        n_registers = getattr(self.backbone.config, "num_register_tokens", 0)
        return pool_tokens(seen.last_hidden_state, self.config.pooling, n_registers)


def family_of(config: PreTrainedConfig) -> str:
    """The model type of a network, that of its backbone where it is a PooledClassifier."""
    inner = config.vision_config if isinstance(config, PooledConfig) else config
    return str(inner.model_type)


def with_pooling(network: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """A classifier on this pooling of a network; its own where that is the same, else one with a new, random head.

    Args:
        network: a classifier of transformers, a PooledClassifier, or a backbone without a head.
        pooling: as `model.pooling` has it; `auto` leaves every classifier as it is.

    Raises:
        ConfigError: the network cannot be pooled so.
    """
    if isinstance(network, PooledClassifier):
        if pooling in ("auto", network.config.pooling):
            return network
        return _wrap(network.backbone, choose_pooling(network.backbone.config, pooling)[0])
    chosen, is_own = choose_pooling(network.config, pooling)
    if is_own and network.config.model_type not in WITHOUT_CLASSIFIER:
        return network
    return _wrap(_backbone_of(network), chosen)


@torch.no_grad()
def as_own_class(network: PreTrainedModel) -> PreTrainedModel:
    """The same function as a class of transformers, where the backbone's own classifier can express it.

    DINOv2's own head is linear in the class token and the patches' mean, side by side: with zeros for one of them it is
    a head on the other.

    Args:
        network: any classifier; one that is of transformers already, or cannot be expressed so, comes back as it is.
    """
    if not isinstance(network, PooledClassifier):
        return network
    inner = network.backbone.config
    if inner.model_type in WITHOUT_CLASSIFIER or choose_pooling(inner, "auto")[0] != "cls_mean":
        return network
    with torch.device("meta"):  # its weights are replaced
        own = AutoModelForImageClassification.from_config(inner, dtype=torch.float32)
    name = next(name for name, child in own.named_children() if isinstance(child, PreTrainedModel))
    setattr(own, name, network.backbone)
    head = network.classifier
    zeros = torch.zeros_like(head.weight)
    halves = {"cls": (head.weight, zeros), "mean": (zeros, head.weight), "cls_mean": (head.weight,)}
    own.classifier = head
    own.classifier.weight = nn.Parameter(torch.cat(halves[network.config.pooling], dim=1))
    own.classifier.in_features = own.classifier.weight.shape[1]
    return own.train(network.training)


def _wrap(backbone: PreTrainedModel, pooling: str) -> PooledClassifier:
    inner = backbone.config
    inner._name_or_path = ""  # noqa: SLF001 -- where it came from is no part of what it is
    config = PooledConfig(
        vision_config=inner,
        pooling=pooling,
        id2label=dict(inner.id2label),
        label2id=dict(inner.label2id),
        problem_type=None,
        dtype=torch.float32,
        attn_implementation=inner._attn_implementation,  # noqa: SLF001 -- or the backbone's would be unset
    )
    classifier = PooledClassifier(config, backbone)
    classifier.train(backbone.training)
    return classifier


def _build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    if config.model_type in WITHOUT_CLASSIFIER:
        return AutoModel.from_config(config)
    return _backbone_of(AutoModelForImageClassification.from_config(config))


def _backbone_of(network: PreTrainedModel) -> PreTrainedModel:
    # Taken out of the classifier: on its own a ViT also has a pooler, which nothing here would train.
    inner = [child for child in network.children() if isinstance(child, PreTrainedModel)]
    return network if network.config.model_type in WITHOUT_CLASSIFIER else inner[0]
