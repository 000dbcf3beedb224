"""The configuration reference is read from the source of the settings, so it cannot be stale."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import OmegaConf

from roadwork.settings import Settings
from roadwork.settings.reference import describe_settings


@dataclass
class Inner:
    rank: int = 8
    """Rank of the matrices.

    Twice the rank has twice the parameters.
    """
    # A comment is the description
    # where no docstring follows.
    alpha: float | None = None


@dataclass
class Outer:
    name: str
    # The comment loses against the docstring.
    layers: list[str] = field(default_factory=lambda: ["q", "v"])
    """Layers to train."""
    inner: Inner = field(default_factory=Inner)
    entries: list[Inner] = field(default_factory=list)
    plain: bool = True


def test_description_is_docstring_or_comment():
    described = {entry.key: entry.description for entry in describe_settings(Outer)}
    assert described["inner.rank"] == "Rank of the matrices.\n\nTwice the rank has twice the parameters."
    assert described["inner.alpha"] == "A comment is the description where no docstring follows."
    assert described["layers"] == "Layers to train."
    assert described["plain"] == ""


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
