"""From YAML files and `key=value` overrides to one checked configuration."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roadwork.errors import ConfigError
from roadwork.settings import Settings

_PACKAGE = Path(__file__).resolve().parent
# Keys below these are the user's own; every other key must be in the schema.
_FREE_FORM = {"data.columns", "data.class_names", "data.splits", "model.config"}


def config_folders() -> list[Path]:
    """Where configuration files are looked for: `./configs`, then the checkout, then the wheel."""
    return [Path("configs"), _PACKAGE.parent / "configs", _PACKAGE / "configs"]


def find_config(path: str | Path) -> Path:
    """The file that `path` names: itself, else the shipped file of that name below `configs/`.

    Raises:
        ConfigError: no such file; the message lists the shipped ones.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.parts[:1] == ("configs",):
        for folder in config_folders():
            if (found := folder.joinpath(*path.parts[1:])).is_file():
                return found
    shipped = [f"configs/{p.relative_to(folder)}" for folder in config_folders()[:0:-1] for p in folder.rglob("*.yaml")]
    close = difflib.get_close_matches(str(path), shipped, 3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(f"There is no configuration file {path}.{hint} Allowed: a YAML file such as configs/config.yaml.")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads a configuration file, composes its groups and applies `key=value` overrides.

    An override whose key is a group (`model=vit_base`) chooses that group's file.

    Raises:
        ConfigError: a file, key or value that cannot be used.
    """
    file = find_config(path)
    config = _load_yaml(file)
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file} holds a list; a configuration is a mapping of keys to values.")
    groups = {_group_of(item)[0] for item in config.get("defaults", []) if _group_of(item)}
    values: list[str] = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not re.fullmatch(r"[\w.]+", key):
            raise ConfigError(f"{override!r} is not an override. Allowed: key=value, for example training.epochs=5.")
        if key in groups:
            config.defaults = [{key: value} if (_group_of(d) or ("",))[0] == key else d for d in config.defaults]
        else:
            values.append(override)
    try:
        top = OmegaConf.from_dotlist(values)
    except OmegaConfBaseException as error:
        raise ConfigError(f"The overrides {values} cannot be read: {error}") from error
    return compose_config(cast("DictConfig", OmegaConf.merge(config, top)))


def compose_config(config: DictConfig) -> DictConfig:
    """The full configuration: defaults, then the groups that `config.defaults` names, then `config` on top.

    Composing a composed configuration changes nothing, and the argument is never changed.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type or range.
    """
    own = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    defaults = own.pop("defaults", [])
    layers: list[DictConfig] = []
    for item in defaults:
        if (chosen := _group_of(item)) is not None:
            group, name = chosen
            layers.append(OmegaConf.create({group: _load_group(group, name)}))
    merged = OmegaConf.merge(*layers, own) if layers else own
    _check_keys(OmegaConf.to_container(merged, resolve=False), Settings)
    schema = OmegaConf.structured(Settings)
    try:
        if "splits" in merged.get("data", {}):
            schema.data.splits = merged.data.splits  # replaced, not merged: a missing split must be seen
        composed = cast("DictConfig", OmegaConf.merge(schema, merged))
        OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'The configuration'}: {str(error).splitlines()[0]}") from error
    return composed


def to_settings(config: DictConfig) -> Settings:
    """The configuration as typed, checked dataclasses, interpolations resolved."""
    return cast("Settings", OmegaConf.to_object(compose_config(config)))


def _load_yaml(file: Path) -> Any:
    try:
        return OmegaConf.load(file)
    except Exception as error:  # yaml's and OmegaConf's errors share no base
        raise ConfigError(f"{file} is not readable YAML: {error}") from error


def _group_of(item: Any) -> tuple[str, str] | None:
    """(group, name) of an entry of a `defaults` list; None for `_self_`."""
    if isinstance(item, str):
        return None
    ((group, name),) = item.items()
    return str(group).lstrip("/"), str(name)


def _load_group(group: str, name: str) -> DictConfig:
    for folder in config_folders():
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            loaded = _load_yaml(file)
            # Users' older files nest everything under the group's name once more.
            return loaded[group] if set(loaded) == {group} else loaded
    known = sorted({p.stem for folder in config_folders() for p in (folder / group).glob("*.yaml")})
    raise ConfigError(
        f"There is no configs/{group}/{name}.yaml. Allowed for {group}: {', '.join(known) or 'none found'}."
    )


def _check_keys(value: Any, schema: type, prefix: str = "") -> None:
    if not isinstance(value, dict):
        if value is not None:
            raise ConfigError(
                f"{prefix.rstrip('.')} is {value!r}; it must hold keys: {[f.name for f in fields(schema)]}."
            )
        return
    hints = get_type_hints(schema)
    known = [f.name for f in fields(schema)]
    for key, inner in value.items():
        full = f"{prefix}{key}"
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f" Did you mean {prefix}{close[0]}?" if close else ""
            raise ConfigError(f"Unknown configuration key {full}.{hint} Known here: {', '.join(known)}.")
        nested = next((t for t in (hints[key], *get_args(hints[key])) if is_dataclass(t)), None)
        if nested is not None and full not in _FREE_FORM:
            _check_keys(inner, cast("type", nested), f"{full}.")
