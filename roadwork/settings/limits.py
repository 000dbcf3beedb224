"""The values that a setting may have: declared beside its default, checked when the settings are built."""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any

from roadwork.core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_SEED = 2**32 - 1  # NumPy's
_KEY = "limits"


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    choices: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.choices)

    def allows(self, value: Any) -> bool:
        return value in self.choices


@dataclass(frozen=True)
class Number:
    """A number between two bounds; `high` may be inf, which allows every finite number."""

    low: float
    high: float = math.inf
    excludes_low: bool = False
    excludes_high: bool = False

    def __str__(self) -> str:
        least = f"above {self.low}" if self.excludes_low else f"at least {self.low}"
        if self.high == math.inf:
            return f"a number {least}" if self.excludes_low else f"a number of {least}"
        if self.excludes_low or self.excludes_high:
            return f"{least} and {'below' if self.excludes_high else 'at most'} {self.high}"
        return f"between {self.low} and {self.high}"

    def allows(self, value: Any) -> bool:
        is_above = value > self.low if self.excludes_low else value >= self.low
        is_below = value < self.high if self.excludes_high or self.high == math.inf else value <= self.high
        return bool(is_above and is_below)


@dataclass(frozen=True)
class CountOrWord:
    """A whole number of at least 1, or a word that lets roadwork choose it."""

    word: str

    def __str__(self) -> str:
        return f"{self.word}, or a whole number >= 1"

    def allows(self, value: Any) -> bool:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return is_count or bool(value == self.word)


Limits = OneOf | Number | CountOrWord


def one_of(choices: tuple[str, ...]) -> dict[str, Limits]:
    """Metadata of a field that holds one of these words."""
    return {_KEY: OneOf(choices)}


def between(low: float, high: float) -> dict[str, Limits]:
    """Metadata of a field that holds a number from `low` to `high`, both allowed."""
    return {_KEY: Number(low, high)}


def at_least(low: float) -> dict[str, Limits]:
    """Metadata of a field that holds a finite number of at least `low`."""
    return {_KEY: Number(low)}


def above(low: float) -> dict[str, Limits]:
    """Metadata of a field that holds a finite number above `low`."""
    return {_KEY: Number(low, excludes_low=True)}


def share_below_one() -> dict[str, Limits]:
    """Metadata of a field that holds a share of at least 0 and below 1."""
    return {_KEY: Number(0, 1, excludes_high=True)}


def count_or(word: str) -> dict[str, Limits]:
    """Metadata of a field that holds a whole number of at least 1, or this word."""
    return {_KEY: CountOrWord(word)}


def allowed_values(field: Field[Any]) -> str:
    """The values that a field's limits allow, in words; empty if every value of its type is allowed."""
    limits = field.metadata.get(_KEY)
    if limits is None:
        return ""
    return f"{limits}, or null" if "None" in str(field.type) else str(limits)


def check_limits(settings: DataclassInstance, group: str, *, unchecked: tuple[str, ...] = ()) -> None:
    """Checks each field that declares limits; null is allowed wherever the type allows it.

    Args:
        settings: a settings object.
        group: the key that holds it, such as `data.gps_sampling`; the messages name it.
        unchecked: fields whose limits are only documentation, because a builder checks them.

    Raises:
        ConfigError: a value is outside its limits.
    """
    for field in fields(settings):
        limits, value = field.metadata.get(_KEY), getattr(settings, field.name)
        if limits is None or value is None or field.name in unchecked or limits.allows(value):
            continue
        verb = "it must be" if isinstance(limits, Number) else "allowed:"
        raise ConfigError(f"{group}.{field.name} is {value!r}; {verb} {allowed_values(field)}.")
