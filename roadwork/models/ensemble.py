"""An ensemble of networks as one network of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

MODEL_TYPE = "roadwork_ensemble"


class EnsembleConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """Configuration of an ensemble; `members` holds the configuration of each network."""

    model_type = MODEL_TYPE

    def __init__(self, members: Sequence[dict[str, Any]] = (), **fields: Any) -> None:
        super().__init__(**fields)
        self.members = list(members)


class EnsembleForImageClassification(PreTrainedModel):  # type: ignore[misc]
    """Maps images (B, 3, S, S) to `.logits` (B, 2) of None and Roadwork: the mean of its members' logits."""

    config_class = EnsembleConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EnsembleConfig, networks: Sequence[PreTrainedModel] | None = None) -> None:
        """Builds the members from `config`, or uses `networks` as they are."""
        super().__init__(config)
        self.members = nn.ModuleList(networks or [_build(fields) for fields in config.members])
        self.post_init()

    @classmethod
    def of(cls, networks: Sequence[PreTrainedModel]) -> Self:
        """The ensemble of these networks; they become its modules."""
        config = EnsembleConfig(
            [_fields_of(network) for network in networks],
            id2label=networks[0].config.id2label,
            label2id=networks[0].config.label2id,
        )
        ensemble = cls(config, networks)
        ensemble.eval()
        return ensemble

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Output with `.logits` (B, 2) of None and Roadwork for images (B, 3, S, S)."""
        return ImageClassifierOutput(logits=mean_logits(self.members, pixel_values))

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: the members have their weights."""


def mean_logits(networks: Iterable[nn.Module], pixel_values: Tensor) -> Tensor:
    """The mean of the networks' logits, (B, 2), for images (B, 3, S, S)."""
    return torch.stack([network(pixel_values=pixel_values).logits for network in networks]).mean(dim=0)


def _build(fields: dict[str, Any]) -> PreTrainedModel:
    kind = dict(fields)
    config = AutoConfig.for_model(kind.pop("model_type"), **kind)
    return AutoModelForImageClassification.from_config(config, dtype=torch.float32)


def _fields_of(network: PreTrainedModel) -> dict[str, Any]:
    """The content of config.json, without the path that the network was loaded from."""
    fields: dict[str, Any] = network.config.to_diff_dict() | {"model_type": network.config.model_type}
    for part in (fields, *fields.values()):
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
    return fields | {"architectures": [type(network).__name__]}
