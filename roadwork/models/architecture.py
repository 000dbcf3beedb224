"""A network's configuration, from its model type, a folder or the hub; and roadwork's own model types."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from roadwork.core.errors import ConfigError
from roadwork.models.classifier import WITHOUT_CLASSIFIER, PooledClassifier, PooledConfig
from roadwork.models.ensemble import EnsembleConfig, EnsembleForImageClassification
from roadwork.settings import ModelSettings

REQUEST_SECONDS = 10
ID2LABEL = {0: "None", 1: "Roadwork"}

# The task and data.img_size determine these fields.
FIXED_FIELDS = ("id2label", "label2id", "num_labels", "problem_type", "image_size", "dtype")

# roadwork's own model types: transformers alone cannot load a folder with one of them.
OWN_NETWORKS = ((EnsembleConfig, EnsembleForImageClassification), (PooledConfig, PooledClassifier))

Loaded = TypeVar("Loaded")


def register_networks() -> None:
    """Registers roadwork's own model types with `AutoConfig` and `AutoModelForImageClassification`."""
    for config, network in OWN_NETWORKS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, network, exist_ok=True)


def needs_roadwork(model_type: str) -> bool:
    """Whether only roadwork can load a network of this type."""
    return any(config.model_type == model_type for config, _ in OWN_NETWORKS)


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that builds a network from this configuration: a classifier, else a backbone."""
    return AutoModel if config.model_type in WITHOUT_CLASSIFIER else AutoModelForImageClassification


def load_local_first(name: str, load: Callable[[bool], Loaded]) -> Loaded:
    """The result of ``load(local_files_only)``: from a folder or the local cache, else from the hub.

    Without a network the hub's client retries each file for half a minute, so one short request goes first.

    Args:
        name: a folder, or a name on the hub.
        load: loads it, or raises an OSError if files are missing.

    Raises:
        ConfigError: nothing can be loaded under this name.
    """
    try:
        return load(True)
    except (OSError, HFValidationError) as error:
        if Path(name).is_dir():
            raise ConfigError(f"model.name={name!r} is a folder that cannot be loaded: {_first_line(error)}") from None
    _check_hub_has(name)
    try:
        return load(False)
    except OSError as error:
        raise ConfigError(f"model.name={name!r} cannot be loaded from the hub: {_first_line(error)}") from None


def _check_hub_has(name: str) -> None:
    try:
        HfApi().model_info(name, timeout=REQUEST_SECONDS)
    except Exception as error:  # noqa: BLE001 - the client lets its HTTP library's own errors through
        raise ConfigError(
            f"model.name={name!r} is neither a folder, nor in the local cache, nor found on the Hugging Face hub "
            f"({_first_line(error)}). Name a local folder with model.name=DIR, or train from random weights with "
            "model.pretrained=false (and model.config.model_type or a model type such as model.name=resnet)."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_config(model: ModelSettings) -> PreTrainedConfig:
    """The transformers configuration of a classifier with the classes None and Roadwork.

    Raises:
        ConfigError: the name is not found, or a field is unknown, of a wrong type, or does not fit the weights.
    """
    register_networks()
    fields = dict(model.config)
    model_type = fields.pop("model_type", None)
    if not model.pretrained and model_type is None and model.name in CONFIG_MAPPING and not Path(model.name).is_dir():
        model_type = model.name
    if model.pretrained or model_type is None:
        config = _stored_config(model, model_type, fields)
    else:
        config = _typed_config(model_type, fields)
    _set_classes(config)
    return config


def _set_classes(config: PreTrainedConfig) -> None:
    config.id2label = dict(ID2LABEL)
    config.label2id = {label: index for index, label in ID2LABEL.items()}
    config.problem_type = None


def _stored_config(model: ModelSettings, model_type: str | None, fields: dict[str, Any]) -> PreTrainedConfig:
    def load(local_files_only: bool) -> PreTrainedConfig:
        return AutoConfig.from_pretrained(model.name, local_files_only=local_files_only, trust_remote_code=False)

    try:
        stored = load_local_first(model.name, load)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"The configuration of model.name={model.name!r} cannot be used: {error}") from None
    if model_type not in (None, stored.model_type):
        raise ConfigError(
            f"model.config.model_type is {model_type!r}, but {model.name} is a {stored.model_type!r}. "
            f"Set model.config={{}}, or name a model of the type {model_type!r}."
        )
    _check_fields(stored, fields, f" Set model.config={{}} to use the configuration of {model.name}.")
    config = copy.deepcopy(stored)
    _set_fields(config, fields)
    if model.pretrained:
        _check_fits_weights(model.name, stored, fields)
    return config


def _check_fits_weights(name: str, stored: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    """Raises ConfigError if a field gives the weights other names or shapes than the stored configuration does."""
    changed = {key: pair for key, *pair in _changed_fields(stored, fields)}
    if not changed or _weight_shapes(stored, fields) == (shapes := _weight_shapes(stored, {})):
        return
    causes = [key for key in changed if _weight_shapes(stored, _nested(key, changed[key][0])) != shapes]
    found = ", ".join(
        f"model.config.{key} is {changed[key][0]!r}, but the weights of {name} have {changed[key][1]!r}"
        for key in causes or changed
    )
    raise ConfigError(
        f"{found}. Set model.config={{}} to use the stored configuration, or model.pretrained=false for random weights."
    )


def _changed_fields(stored: PreTrainedConfig, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, given value, stored value) of each field that differs; keys of a part are `vision_config.hidden_size`."""
    for name, value in fields.items():
        part = getattr(stored, name)
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            yield from ((f"{name}.{key}", *values) for key, *values in _changed_fields(part, value))
        elif part != value:
            yield name, value, part


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _weight_shapes(stored: PreTrainedConfig, fields: Mapping[str, Any]) -> dict[str, torch.Size] | None:
    """Name and shape of each weight of a network; None if transformers cannot build it."""
    config = copy.deepcopy(stored)
    _set_fields(config, fields)
    _set_classes(config)
    try:
        with torch.device("meta"):
            network = auto_class(config).from_config(config)
    except ValueError:
        return None
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _typed_config(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    if model_type not in CONFIG_MAPPING:
        hint = _nearest(model_type, CONFIG_MAPPING)
        raise ConfigError(f"model.config.model_type is {model_type!r}, which transformers does not know{hint}")
    _check_fields(AutoConfig.for_model(model_type), fields)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ConfigError(f"model.config does not make a {model_type}: {_flat(error)}") from None


def _check_fields(config: PreTrainedConfig, fields: Mapping[str, Any], remedy: str = "") -> None:
    known = {*config.to_dict(), *config.attribute_map}
    for name, value in fields.items():
        if name in FIXED_FIELDS:
            raise ConfigError(f"model.config.{name} follows from the task and from data.img_size. Remove it.")
        if name not in known:
            raise ConfigError(
                f"model.config.{name} is not a field of a {config.model_type} configuration"
                f"{_nearest(name, known)}{remedy}"
            )
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            _check_fields(part, value, remedy)


def _set_fields(config: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            _set_fields(part, value)
            continue
        try:
            setattr(config, name, value)
        except StrictDataclassError as error:
            raise ConfigError(f"model.config.{name} is {value!r}: {_flat(error)}") from None


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())
