"""StreetVision's validator profiles and its simulated reward.

The validator remembers a miner's last 100 answers and pays `(0.5 * max(0, MCC) + 0.5 * accuracy of the last 10) ** 3`.
It draws labels 50/50, so a window is that many rows of either label, drawn with replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.augmentation.streetvision import LEVELS
from roadwork.metrics.classification import mcc

MCC_ANSWERS, ACCURACY_ANSWERS = 100, 10
_LOW_PERCENTILE = 5


@dataclass(frozen=True)
class Profile:
    """What a validator shows a miner.

    Attributes:
        name: as `roadwork evaluate --profile` takes it.
        levels: of the challenge images, each equally likely; none: unchanged photos.
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


@dataclass(frozen=True)
class Reward:
    """The simulated reward, 0 to 1.

    Attributes:
        mean: over all windows.
        low: the 5th percentile: one window in twenty pays less.
        windows: how many were simulated.
    """

    mean: float
    low: float
    windows: int


def simulate_reward(labels: np.ndarray, decisions: np.ndarray, *, windows: int = 2000, seed: int = 0) -> Reward:
    """The reward that a validator would pay a detector, over many windows of 100 answers.

    If challenge images have levels, pass equally many rows of each, so that levels are drawn equally often.

    Args:
        labels: (N,) 0 or 1, both of them.
        decisions: (N,) 0 or 1.
        windows: how many to simulate, at least 1.
        seed: of the draws.

    Raises:
        ConfigError: there is no window.
        DataError: labels hold one class only, so that none can be drawn 50/50.
    """
    if windows < 1:
        raise ConfigError(f"windows is {windows}; it must be at least 1.")
    if set(np.unique(labels)) != {0, 1}:
        raise DataError("The reward needs rows of both labels, None and Roadwork: the validator draws them 50/50.")
    called_shares = np.array([decisions[labels == label].mean() for label in (0, 1)])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 2, (windows, MCC_ANSWERS))
    # A row drawn with replacement from a label's rows is called Roadwork as often as that label's rows are.
    called = (rng.random(drawn.shape) < called_shares[drawn]).astype(np.int64)
    rewards = reward_of(drawn, called)
    return Reward(float(rewards.mean()), float(np.percentile(rewards, _LOW_PERCENTILE)), windows)


def reward_of(labels: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(W,) the reward at the end of each window of answers: labels and decisions (W, 100), the oldest first.

    MCC counts 0 where labels or decisions are of one class.
    """
    cells = 2 * labels + decisions
    counts = np.stack([(cells == cell).sum(axis=1) for cell in range(4)], axis=1)
    accuracy = (labels == decisions)[:, -ACCURACY_ANSWERS:].mean(axis=1)
    rewards: np.ndarray = (0.5 * np.maximum(0.0, mcc(counts)) + 0.5 * accuracy) ** 3
    return rewards
