"""Prints the simulations of docs/calibration.md: `calibrate --across` and `predict --estimate-prior` on planted shifts.

Example: python scripts/simulate_elsewhere.py
"""

from __future__ import annotations

import numpy as np
from scipy.special import logit

from roadwork.calibration.across import AcrossRows, apply_across
from roadwork.calibration.data import Rows
from roadwork.calibration.label_shift import ScoreHistogram, estimate_prior

AT_HALF = {
    "temperature": 1.0,
    "threshold": 0.5,
    "prior": 0.5,
    "threshold_fit": {"best": 0.5, "interval": [0.5, 0.5]},
    "abstain": {"low": None, "high": None},
    "curve": [],
}


def draw_regions(seed: int, n_regions: int, offset: float, spread: float) -> Rows:
    """100 photos per region; the logits of a region have a common offset."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 100 * n_regions)
    offsets = np.repeat(offset + spread * rng.normal(size=n_regions), 100)
    margins = 2.0 * (2 * labels - 1) + 2 * rng.normal(size=len(labels)) + offsets
    return Rows(labels, margins, np.repeat([f"r{i}" for i in range(n_regions)], 100))


def show_across() -> None:
    for offset, spread, n_regions in ((2, 0.5, 3), (2, 0.5, 8), (1, 1, 8), (0, 2, 8)):
        new, gains = draw_regions(999, 120, offset, spread), []
        for seed in range(60):
            found = apply_across(AT_HALF, AcrossRows("city", draw_regions(seed, n_regions, offset, spread)))
            if found["across"]["kept"]:
                cut = found["temperature"] * logit(found["threshold"])
                right = [((new.margins >= at) == new.labels).mean() for at in (0.0, cut)]
                gains.append(right[1] - right[0])
        gain = f"{np.mean(gains):+.3f}" if gains else "-"
        print(f"offset {offset}, spread {spread}, {n_regions} regions: used {len(gains) / 60:.0%}, gain {gain}")


def draw_scores(rng: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(n) < share).astype(int)
    return labels, 2 * (2 * labels - 1) + 1.5 * rng.normal(size=n)


def show_prior() -> None:
    for share in (0.1, 0.5):
        for n in (100, 400):
            for offset, scale in ((0, 1), (0.5, 1), (1, 1), (2, 1), (0, 0.6)):
                refused, errors = 0, []
                for seed in range(25):
                    rng = np.random.default_rng(seed)
                    scores = ScoreHistogram.fit(*draw_scores(rng, 300, 0.5), np.arange(300), 0.0)
                    new = scale * draw_scores(rng, n, share)[1] + offset
                    found = estimate_prior(scores, new, np.arange(n))
                    refused += bool(found.reasons)
                    errors += [] if found.reasons else [abs(found.prior - share)]
                error = f"{np.mean(errors):.2f}" if errors else "-"
                print(f"{n} photos, share {share}, x {scale} + {offset}: refused {refused / 25:.0%}, error {error}")


if __name__ == "__main__":
    show_across()
    show_prior()
