"""What a setting's value is held against, with the message that names key, value and what is allowed."""

from __future__ import annotations

import math

from roadwork.core.errors import ConfigError

MAX_SEED = 2**32 - 1  # NumPy's


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}; allowed: {', '.join(allowed)}.")


def check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}; it must be between {low} and {high}.")


def check_at_least(key: str, value: float, low: float) -> None:
    if not low <= value < math.inf:
        raise ConfigError(f"{key} is {value}; it must be a number of at least {low}.")


def check_word_or_count(key: str, value: object, word: str) -> None:
    """For a whole number of at least 1, or the one word that lets roadwork choose it."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value != word and not is_count:
        raise ConfigError(f"{key} is {value!r}; allowed: {word}, or a whole number >= 1.")
