"""Reading from a folder, the local cache or the Hugging Face hub, in this order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from roadwork.errors import ConfigError

Loaded = TypeVar("Loaded")
REQUEST_SECONDS = 10


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
