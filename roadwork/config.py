"""From YAML files and `key=value` overrides to one checked configuration."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # it ships no types

from roadwork.core.errors import ConfigError
from roadwork.settings import Settings

COMMAND_LINE = "the command line"

_PACKAGE = Path(__file__).resolve().parent
# Mappings of the user's own keys, which replace the default as a whole.
_REPLACED = ("data.splits", "data.class_names")
_FORMS: dict[Any, str] = {list: "a list, such as [a, b]", dict: "a mapping, such as {a: b}"}


def config_folders() -> list[Path]:
    """The folders with configuration files, in order of search: `./configs`, the checkout's, the wheel's."""
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
    """The checked configuration of a YAML file: defaults, its groups, the file itself, then `key=value` overrides.

    An override whose key is a group (`model=vit_base`) chooses that group's file.

    Raises:
        ConfigError: a file, key or value that cannot be used.
    """
    return _compose([layer for _, layer in read_layers(path, overrides)])


def read_layers(path: str | Path, overrides: Sequence[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The mappings that `load_config` merges, each with its source: a file, or the command line. Later ones win.

    Raises:
        ConfigError: a file or an override that cannot be read.
    """
    file = find_config(path)
    config = load_yaml(file)
    groups, others = dict(_groups_of(config)), []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in groups and "=" in override:
            groups[key] = value
        else:
            others.append(override)
    values = parse_overrides(others)
    layers = [_load_group(group, name) for group, name in groups.items()]
    layers.append((str(file), _without_defaults(config)))
    return [*layers, (COMMAND_LINE, _plain(values))] if values else layers


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """The mapping of `key=value` overrides; later ones win.

    Raises:
        ConfigError: an override that cannot be read.
    """
    values = OmegaConf.create()
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not re.fullmatch(r"[\w.]+", key):
            raise ConfigError(f"{override!r} is not an override. Allowed: key=value, for example training.epochs=5.")
        try:
            values = cast("DictConfig", OmegaConf.merge(values, OmegaConf.from_dotlist([override])))
        except (OmegaConfBaseException, YAMLError, TypeError) as error:  # TypeError: a list for a mapping
            raise ConfigError(f"The override {override!r} cannot be read: {_first_line(error)}") from error
    return values


def compose_config(config: DictConfig) -> DictConfig:
    """The full configuration: defaults, then the groups that `config.defaults` names, then `config` on top.

    The argument is never changed. A composed configuration is checked and copied; no file is read again.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of the wrong type or range.
    """
    if is_composed(config):
        _to_checked_settings(config)
        return copy.deepcopy(config)
    groups = [layer for _, layer in (_load_group(group, name) for group, name in _groups_of(config))]
    return _compose([*groups, _without_defaults(config)])


def to_settings(config: DictConfig) -> Settings:
    """The configuration as typed, checked dataclasses, interpolations resolved.

    Raises:
        ConfigError: as `compose_config`.
    """
    return _to_checked_settings(config if is_composed(config) else compose_config(config))


def is_composed(config: DictConfig) -> bool:
    """Whether a configuration comes from `load_config` or `compose_config`; OmegaConf then knows its schema."""
    return OmegaConf.get_type(config) is Settings


def _compose(layers: Sequence[dict[str, Any]]) -> DictConfig:
    for layer in layers:
        _check_keys(layer, Settings)
    _drop_stale_model_config(layers)
    with _config_errors():
        merged = OmegaConf.create()
        for layer in layers:
            given = {key: value for key, value in layer.items() if value is not None}
            _check_same_forms(_plain(merged), given)
            merged = cast("DictConfig", OmegaConf.merge(merged, given))
        schema = OmegaConf.structured(Settings)
        schema.model.pretrained = None  # decided for the default name already
        for key in _REPLACED:
            if OmegaConf.select(merged, key, throw_on_resolution_failure=False):
                OmegaConf.update(schema, key, {}, merge=False)
        composed = cast("DictConfig", OmegaConf.merge(schema, merged))
        composed.model.pretrained = cast("Settings", OmegaConf.to_object(composed)).model.pretrained  # null no more
    return composed


def _to_checked_settings(composed: DictConfig) -> Settings:
    _check_keys(_plain(composed), Settings)  # users can add keys with OmegaConf.open_dict
    with _config_errors():
        return cast("Settings", OmegaConf.to_object(composed))


@contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'The configuration'}: {_first_line(error)}") from error


def _drop_stale_model_config(layers: Sequence[dict[str, Any]]) -> None:
    """Removes, in place, each `model.config` that describes another network than the one named later.

    A layer with a new `model.name` drops the earlier `model.config` unless it extends it with fields of its own. An
    earlier one without `model_type` is dropped in any case: its type was the earlier name. So does an empty
    `model.config`.
    """
    name: str | None = None
    earlier: list[dict[str, Any]] = []
    for layer in layers:
        model = layer.get("model") or {}
        if "config" in model and not model["config"]:
            model["config"] = {}
            is_stale = True
        else:
            has_type = any("model_type" in (before.get("config") or {}) for before in earlier)
            is_stale = name not in (None, model.get("name", name)) and not ("config" in model and has_type)
        if is_stale:
            for before in earlier:
                before.pop("config", None)
        name = model.get("name", name)
        earlier.append(model)


def load_yaml(file: Path) -> DictConfig:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        loaded = OmegaConf.load(file)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file} is not readable YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file} holds no keys. A configuration is a mapping, such as `epochs: 5`.")
    return loaded


def _plain(config: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _groups_of(config: DictConfig) -> list[tuple[str, str]]:
    """(group, name) of each entry of the `defaults` list, but for `_self_`."""
    entries = _plain(config).get("defaults") or []
    groups = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigError(f"defaults has the entry {entry!r}. Allowed: `group: name`, such as `data: natix`.")
        groups += [(str(group), str(name)) for group, name in entry.items()]
    return groups


def _load_group(group: str, name: str) -> tuple[str, dict[str, Any]]:
    """The file of a group, and its content under the group's key."""
    for folder in config_folders():
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            loaded = _plain(load_yaml(file))
            # Users' older files nest everything under the group's name once more.
            return str(file), {group: loaded[group] if set(loaded) == {group} else loaded}
    known = sorted({p.stem for folder in config_folders() for p in (folder / group).glob("*.yaml")})
    raise ConfigError(
        f"There is no configs/{group}/{name}.yaml. Allowed for {group}: {', '.join(known) or 'none found'}."
    )


def _without_defaults(config: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in _plain(config).items() if key != "defaults"}


def _check_keys(value: Any, schema: type, prefix: str = "") -> None:
    if not isinstance(value, dict):
        if value is not None:
            raise ConfigError(
                f"{prefix.rstrip('.')} is {value!r}; it must hold keys, such as {prefix}{fields(schema)[0].name}: "
                f"{', '.join(f.name for f in fields(schema))}. "
                "A group's file is chosen in `defaults`, or on the command line where `defaults` names the group."
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
        if nested is not None and get_origin(hints[key]) is list:
            for number, entry in enumerate(_entries(inner, full)):
                _check_keys(entry, cast("type", nested), f"{full}[{number}].")
        elif nested is not None:
            _check_keys(inner, cast("type", nested), f"{full}.")
        else:
            _check_form(inner, hints[key], full)


def _check_form(value: Any, hint: Any, key: str) -> None:
    """Raises ConfigError, with the key that OmegaConf leaves out, if a list or a mapping is expected but not given."""
    kinds = [kind for kind in (get_args(hint) if get_origin(hint) is UnionType else (hint,)) if kind is not NoneType]
    forms = {get_origin(kind) for kind in kinds}
    if value is None or not forms <= set(_FORMS) or (isinstance(value, str) and "${" in value):
        return
    if type(value) not in forms:
        raise ConfigError(f"{key} is {value!r}; allowed: {' or '.join(_FORMS[form] for form in forms)}.")
    if isinstance(value, list):
        for number, entry in enumerate(value):
            _check_form(entry, get_args(kinds[0])[0], f"{key}[{number}]")


def _check_same_forms(before: dict[str, Any], given: dict[str, Any], prefix: str = "") -> None:
    """Raises ConfigError if a list is given for a mapping or the other way round, below a key of any form."""
    for key, value in given.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _check_same_forms(old, value, f"{prefix}{key}.")
        elif {type(old), type(value)} == {dict, list}:
            raise ConfigError(f"{prefix}{key} is {value!r}; allowed: {_FORMS[type(old)]}.")


def _entries(value: Any, key: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"{key} is {value!r}; it must be a list of mappings, such as [{{name: a}}, {{name: b}}].")
    return value or []
