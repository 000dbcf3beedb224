"""Reads a network's configuration from its type, a folder or the hub."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from roadwork.core.errors import ConfigError
from roadwork.models.ensemble import register_own_networks
from roadwork.settings import ModelSettings

REQUEST_SECONDS = 10
ID2LABEL = {0: "None", 1: "Roadwork"}

# These follow from the task and from data.img_size; set twice, they could disagree.
FIXED_FIELDS = ("id2label", "label2id", "num_labels", "problem_type", "image_size", "dtype")


Loaded = TypeVar("Loaded")


def load_local_first(name: str, load: Callable[[bool], Loaded]) -> Loaded:
    """What ``load(local_files_only)`` returns for a folder or a hub name, asking the hub only where it must.

    Without a network the hub's client retries each file for half a minute; one short request comes before.

    Args:
        name: a folder, or a name on the hub.
        load: loads it, or raises an OSError where files are missing.

    Raises:
        ConfigError: nothing there can be loaded.
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
        ConfigError: nothing has this name, or a field is unknown or has a value of a wrong type.
    """
    register_own_networks()
    fields = dict(model.config)
    model_type = fields.pop("model_type", None)
    if not model.pretrained and model_type is None and model.name in CONFIG_MAPPING and not Path(model.name).is_dir():
        model_type = model.name
    if model.pretrained or model_type is None:
        config = _stored_config(model.name, model_type, fields)
    else:
        config = _typed_config(model_type, fields)
    config.id2label = dict(ID2LABEL)
    config.label2id = {label: index for index, label in ID2LABEL.items()}
    config.problem_type = None
    return config


def _stored_config(name: str, model_type: str | None, fields: dict[str, Any]) -> PreTrainedConfig:
    def load(local_files_only: bool) -> PreTrainedConfig:
        return AutoConfig.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)

    try:
        config = load_local_first(name, load)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"The configuration of model.name={name!r} cannot be used: {error}") from None
    if model_type not in (None, config.model_type):
        raise ConfigError(
            f"model.config.model_type is {model_type!r}, but {name} is a {config.model_type!r}; "
            f"name a model of the type {model_type!r}, or remove model.config."
        )
    _check_fields(config, fields)
    _set_fields(config, fields)
    return config


def _typed_config(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    if model_type not in CONFIG_MAPPING:
        hint = _nearest(model_type, CONFIG_MAPPING)
        raise ConfigError(f"model.config.model_type is {model_type!r}, which transformers does not know{hint}")
    _check_fields(AutoConfig.for_model(model_type), fields)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ConfigError(f"model.config does not make a {model_type}: {_flat(error)}") from None


def _check_fields(config: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    known = {*config.to_dict(), *config.attribute_map}
    for name, value in fields.items():
        if name in FIXED_FIELDS:
            raise ConfigError(f"model.config.{name} follows from the task and from data.img_size; remove it.")
        if name not in known:
            raise ConfigError(
                f"model.config.{name} is not a field of a {config.model_type} configuration{_nearest(name, known)}"
            )
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            _check_fields(part, value)


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
