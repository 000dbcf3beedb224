"""The configuration reference is read from the source of the settings, so it cannot be stale."""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from typing import get_args, get_type_hints

from omegaconf import OmegaConf

from roadwork.settings import AUGMENTATION_MODES, Settings, reference
from roadwork.settings.limits import above
from roadwork.settings.reference import describe_settings


@dataclass
class Inner:
    rank: int = 8
    """Rank of the matrices.

    Twice the rank has twice the parameters.
    """
    alpha: float | None = field(default=None, metadata=above(0))


@dataclass
class Outer:
    name: str
    layers: list[str] = field(default_factory=lambda: ["q", "v"])
    """Layers to train."""
    inner: Inner = field(default_factory=Inner)
    entries: list[Inner] = field(default_factory=list)
    plain: bool = True


def test_description_is_the_docstring():
    described = {entry.key: entry.description for entry in describe_settings(Outer)}
    assert described["inner.rank"] == "Rank of the matrices.\n\nTwice the rank has twice the parameters."
    assert described["layers"] == "Layers to train."
    assert described["plain"] == ""


def test_allowed_values_come_from_the_limits():
    allowed = {entry.key: entry.allowed for entry in describe_settings(Outer)}
    assert (allowed["inner.alpha"], allowed["plain"]) == ("a number above 0, or null", "")
    shipped = {entry.key: entry.allowed for entry in describe_settings()}
    assert shipped["training.adapter"] == "none, lora, dora, adalora, vera, ia3"
    assert shipped["data.augmentation.train.mode"] == ", ".join(AUGMENTATION_MODES)
    assert shipped["data.dataloader.batch_size"] == "auto, or a whole number >= 1"


def test_every_setting_has_a_docstring():
    assert [entry.key for entry in describe_settings() if not entry.description] == []


def test_every_group_has_a_docstring():
    schemas = [Settings]
    for schema in schemas:  # grows while it is read
        undocumented = [name for name, (_, text) in reference._read_source(schema).items() if not text]
        assert undocumented == [], schema
        schemas += [t for h in get_type_hints(schema).values() for t in (h, *get_args(h)) if is_dataclass(t)]


def test_types_and_defaults_as_yaml():
    found = {entry.key: (entry.type, entry.default) for entry in describe_settings(Outer)}
    assert found["name"] == ("str", "")
    assert found["layers"] == ("list[str]", "[q, v]")
    assert found["inner.alpha"] == ("float | None", "null")
    assert found["plain"] == ("bool", "true")
    assert found["entries"] == ("list[Inner]", "[]")
    assert found["entries[].rank"] == ("int", "8")


def test_keys_are_those_of_the_schema():
    keys = {
        entry.key for entry in describe_settings() if "[]" not in entry.key and not entry.key.startswith("data.hub")
    }
    schema = OmegaConf.structured(Settings)
    missing = [key for key in keys if OmegaConf.is_missing(schema, key)]
    assert missing == []
    for key in keys:
        OmegaConf.select(schema, key, throw_on_missing=True, throw_on_resolution_failure=True)
    assert {"experiment", "data.root", "data.extra[].share", "data.hub.name", "training.ema_decay"} <= {
        entry.key for entry in describe_settings()
    }


def test_brackets_can_be_copied_into_yaml():
    default = next(e.default for e in describe_settings() if e.key == "data.gps_sampling.weight_brackets")
    assert default == "[[0, 50, 5], [50, 200, 2.5], [200, 500, 1], [500, inf, 0.3]]"
