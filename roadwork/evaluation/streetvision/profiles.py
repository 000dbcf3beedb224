"""The StreetVision validator's profiles by name."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.data.augmentation.challenge.facts import LEVELS
from roadwork.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """What a validator shows a miner.

    Attributes:
        name: as `roadwork evaluate --profile` takes it.
        levels: of the challenge pictures, each equally likely; none: the photos as they are.
        meaning: one sentence.
    """

    name: str
    levels: tuple[int, ...]
    meaning: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "streetvision-2026-01",
            tuple(range(LEVELS)),
            "Each photo as a challenge picture of each of four levels: 224 x 224 pixels, saved as JPEG.",
        ),
        Profile("streetvision-2026-05", (), "The photos as they are: JPEGs of their own size, not augmented."),
    )
}


def find_profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROFILES:
        raise ConfigError(f"--profile is {name!r}; allowed: {', '.join(PROFILES)}.")
    return PROFILES[name]
