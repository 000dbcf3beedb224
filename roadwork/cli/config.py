"""Commands on the configuration: list, search, explain, show."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork.cli.app import DEFAULT_CONFIG, WIDTH, ConfigOption, Overrides, app
from roadwork.core.errors import ConfigError

if TYPE_CHECKING:
    from roadwork.settings.reference import Field

config_app = typer.Typer(
    help="List, search, explain and show configuration keys.\n\nExample: roadwork config explain training.lr"
)
app.add_typer(config_app, name="config", no_args_is_help=True, rich_help_panel="Tools")


@config_app.command("list")
def list_keys(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="A group of keys, such as data.gps_sampling.")] = "",
) -> None:
    """List configuration keys with their defaults.

    Example: roadwork config list data.gps_sampling
    """
    from roadwork.settings.reference import describe_settings

    _print_table(_find(prefix, describe_settings()))


@config_app.command()
def search(word: Annotated[str, typer.Argument(metavar="WORD", help="Part of a key or of its description.")]) -> None:
    """List keys whose name or description contains a word.

    Example: roadwork config search seed
    """
    from roadwork.settings.reference import describe_settings

    settings = describe_settings()
    found = [entry for entry in settings if word.lower() in f"{entry.key} {entry.description}".lower()]
    if not found:
        words = {part for entry in settings for part in entry.key.replace("_", ".").split(".")}
        raise ConfigError(f"No key or description contains {word!r}.{_hint(word, words)}")
    _print_table(found)


@config_app.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key, such as training.lr.")],
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Explain a key.

    Prints its type, default, allowed values, value, source and meaning.

    Example: roadwork config explain data.gps_sampling.draw
    """
    from roadwork.settings.reference import describe_settings

    found = _find(key, describe_settings())
    if [entry.key for entry in found] != [key]:
        _print_table(found)
        return
    (entry,) = found
    rows = {"type": entry.type, "default": entry.default or "none: a value is required", "allowed": entry.allowed}
    if "[]" not in key:
        rows["value"] = _value_and_source(key, config, overrides or [])
    print(key)
    for name, text in rows.items():
        if text:
            print(f"  {name:8} {text}")
    print(f"\n{entry.description}")


@config_app.command()
def show(overrides: Overrides = None, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the resolved configuration as YAML.

    Files, groups and overrides are merged and checked.

    Example: roadwork config show model=vit_base training.epochs=5
    """
    from omegaconf import OmegaConf

    from roadwork.config import load_config

    print(OmegaConf.to_yaml(load_config(config, overrides or []), resolve=True), end="")


def _find(key: str, settings: Sequence[Field]) -> list[Field]:
    """The settings with this key, or in this group; all of them for an empty key."""
    found = [entry for entry in settings if not key or entry.key == key or entry.key.startswith((f"{key}.", f"{key}["))]
    if not found:
        known = {entry.key for entry in settings} | {entry.group for entry in settings}
        last = {name.rpartition(".")[2]: name for name in known}
        raise ConfigError(f"Unknown configuration key {key}.{_hint(key, known) or _hint(last.get(key, ''), known)}")
    return found


def _hint(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), 3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _value_and_source(key: str, config: Path, overrides: Sequence[str]) -> str:
    """The value of a key in a configuration, and the last file or override that sets it."""
    from omegaconf import OmegaConf

    from roadwork.config import load_config, read_layers
    from roadwork.settings.reference import as_yaml

    value = OmegaConf.select(load_config(config, overrides), key)
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    sources = [source for source, layer in read_layers(config, overrides) if _sets(layer, key)]
    return f"{as_yaml(value)} (from {sources[-1]})" if sources else f"{as_yaml(value)} (the default)"


def _sets(layer: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(layer, dict) or part not in layer:
            return False
        layer = layer[part]
    return True


def _print_table(settings: Sequence[Field]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("key", "default", "meaning"):
        table.add_column(title, overflow="fold", no_wrap=title == "key")
    for entry in settings:
        table.add_row(entry.key, escape(entry.default), escape(entry.description.partition("\n")[0]))
    console = Console(highlight=False, width=max(Console().width, WIDTH))
    console.print(table)
